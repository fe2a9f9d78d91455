"""Reads the metadata of a gRPC call."""

from grpc.aio import ServicerContext

from clockwork.messages.request_ids import STATE_HEADER, TRACE_HEADER, trace_context


def header(call: ServicerContext, name: str) -> str:
    """Return a value of the call's metadata, or an empty string if there is none."""
    return next((str(value) for key, value in call.invocation_metadata() or () if key == name), "")


def context_of(call: ServicerContext) -> tuple[str, str]:
    """Return the trace context of a call (`trace_context`), or two empty strings if the client sent none."""
    metadata = call.invocation_metadata() or ()
    parents = [str(value) for key, value in metadata if key == TRACE_HEADER]
    return trace_context(parents, [str(value) for key, value in metadata if key == STATE_HEADER] if parents else [])
