"""The Open Inference Protocol, version 2, over gRPC, in the controller's process and event loop.

This package only translates: messages become calls of `clockwork.frontend`, and results and failures become messages
and codes. The messages' descriptors are in their own pool, so they do not collide with those of other packages in the
process.
"""

from clockwork.grpc_frontend.server import GrpcServer, serve_grpc

__all__ = ["GrpcServer", "serve_grpc"]
