"""The Open Inference Protocol, version 2, without a transport: what its messages mean to Clockwork.

Rules of the room: pure. HTTP and gRPC share what is here: deadlines from parameters, and the one contract of how an
answer that is no success is told.
"""
