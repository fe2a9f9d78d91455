"""Reads the metadata of a gRPC call."""

from clockwork.grpc_frontend.calls import Call
from clockwork.messages.request_ids import STATE_HEADER, TRACE_HEADER, trace_context


def header(call: Call, name: str) -> str:
    """Return a value of the call's metadata, or an empty string if there is none."""
    return next((str(value) for key, value in call.metadata if key == name), "")


def context_of(call: Call) -> tuple[str, str]:
    """Return the trace context of a call (`trace_context`), or two empty strings if the client sent none."""
    metadata = call.metadata
    parents = [str(value) for key, value in metadata if key == TRACE_HEADER]
    return trace_context(parents, [str(value) for key, value in metadata if key == STATE_HEADER] if parents else [])
