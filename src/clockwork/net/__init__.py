"""Connections over asyncio: framing, greeting, heartbeats and back-pressure.

The package does not know the messages that connections carry.
"""
