"""Connections over asyncio: framing, greeting, heartbeats, back-pressure. No word of what is said over them."""
