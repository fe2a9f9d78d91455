"""Connections over asyncio: framing, greeting, heartbeats and back-pressure.

The package does not depend on messages.
"""
