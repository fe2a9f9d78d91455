"""The native protocol: frames, messages as bytes, and the offset between two clocks. No sockets, no event loop."""
