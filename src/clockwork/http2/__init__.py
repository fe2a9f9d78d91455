"""HTTP/2 for a server (RFC 9113), without I/O: bytes in, events and bytes out.

The package implements the part of HTTP/2 that gRPC uses. It has no clock: the host passes the time.
"""
