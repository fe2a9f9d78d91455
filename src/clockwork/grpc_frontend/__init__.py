"""The Open Inference Protocol, version 2, over gRPC: a front end in the controller's process.

Rules of the room: nothing is decided here. A message of the protocol becomes one of Clockwork's, its answer becomes one
of the protocol's; what an answer that is no success looks like is `clockwork.oip.contract`'s to say. Everybody else's
.proto files are left alone: the messages live in a pool of descriptors of their own.
"""

from clockwork.grpc_frontend.server import GrpcServer, serve_grpc

__all__ = ["GrpcServer", "serve_grpc"]
