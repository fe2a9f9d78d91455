"""Connections over asyncio: framing, greeting, heartbeats, back-pressure. Knows nothing about the messages."""
