"""The gRPC front end: the Open Inference Protocol v2 over gRPC.

The front end runs in the controller's process, on the same event loop. This package translates between gRPC and
`clockwork.frontend`: it converts messages to calls of methods, and converts results and failures to messages and status
codes. The descriptors of the messages are in a separate descriptor pool, so that they do not collide with other Python
packages that define the same messages.
"""

from clockwork.grpc_frontend.server import GrpcServer, serve_grpc

__all__ = ["GrpcServer", "serve_grpc"]
