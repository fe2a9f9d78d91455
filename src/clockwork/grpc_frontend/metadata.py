"""Reads the metadata of a gRPC call."""

from grpc.aio import ServicerContext


def header(call: ServicerContext, name: str) -> str:
    """Return a value of the call's metadata, or an empty string if there is none."""
    return next((str(value) for key, value in call.invocation_metadata() or () if key == name), "")
