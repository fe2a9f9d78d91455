"""Bytes to messages and back, and one host's time to another's. Pure: no socket, no clock, no event loop."""
