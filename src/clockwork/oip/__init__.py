"""The Open Inference Protocol, version 2, without a transport: the meaning of its messages to Clockwork.

The package is pure: no clock, no I/O. HTTP and gRPC share its parameters, metadata and table of failures.
"""
