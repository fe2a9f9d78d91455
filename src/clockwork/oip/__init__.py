"""The Open Inference Protocol v2, without a transport.

This package decodes requests, encodes responses and checks parameters. The package is pure: it uses no clock and no
I/O. The HTTP and gRPC front ends share the package.
"""
