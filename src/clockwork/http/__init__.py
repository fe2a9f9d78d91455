"""The Open Inference Protocol v2 over HTTP, with Triton's extensions, in the controller's process and event loop.

Rules of the room: what bytes mean is decided in `clockwork.oip`; here they are received, asked about and sent.
"""
