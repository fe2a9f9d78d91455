"""The HTTP front end: the Open Inference Protocol v2 with Triton's extensions.

The front end runs in the controller's process, on the same event loop. This package receives requests and sends
replies. `clockwork.oip` decodes and encodes the bodies. `clockwork.frontend` passes the requests to the controller.
"""
