"""The gRPC front end: the Open Inference Protocol v2 over gRPC.

The front end runs in the controller's process, on the same event loop. This package translates between gRPC and the
common front end. The package turns messages into calls of `clockwork.frontend`, and turns results and failures into
messages and status codes. The descriptors of the front end's messages are in a separate pool, so that they do not
collide with other packages that define the same messages.
"""

from clockwork.grpc_frontend.server import GrpcServer, serve_grpc

__all__ = ["GrpcServer", "serve_grpc"]
