"""The Open Inference Protocol v2 over HTTP, with Triton's extensions, in the controller's process and event loop.

This package receives bytes and sends replies. `clockwork.oip` knows what the bytes mean, and `clockwork.frontend` asks
the controller.
"""
