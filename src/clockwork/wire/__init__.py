"""The native protocol: frames, the encoding of messages, and the offset between two clocks.

This package uses no sockets and no event loop.
"""
