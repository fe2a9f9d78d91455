"""Describes an HTTP call by OpenTelemetry's semantic conventions for HTTP servers."""

from typing import Any, Final

from clockwork.frontend import FrontEnd
from clockwork.http.asgi import BEGAN, Headers, Scope
from clockwork.messages.request_ids import STATE_HEADER, TRACE_HEADER, trace_context
from clockwork.tracing.trace import Call, Trace

TRACE: Final = "clockwork.trace"
"""Key of the ASGI scope for the trace of a request. The key is missing if the request is not traced."""

MAX_AGENT: Final = 256
"""Longest ``User-Agent`` in characters that is exported. Longer values are cut."""

CLIENT_GONE: Final = 499
"""Status of a request whose client has closed the connection before the response."""

_PARENT: Final = TRACE_HEADER.encode()
_STATE: Final = STATE_HEADER.encode()


def context_of(scope: Scope, headers: Headers) -> tuple[str, str]:
    """Return the trace context of a request (`trace_context`), or two empty strings if the client sent none."""
    if _PARENT not in headers:
        return "", ""
    found = (
        [str(value.strip(b" \t"), "latin-1") for key, value in scope["headers"] if key == name]  # httptools strips less
        for name in (_PARENT, _STATE)
    )
    return trace_context(*found)


def begin_trace(front: FrontEnd, scope: Scope, headers: Headers, version: str) -> None:
    """Begin the trace of an inference request, if it may be exported. ``version`` is the version in the path."""
    if front.tracer is None:
        return
    parent, state = context_of(scope, headers)
    trace = front.tracer.begin(parent, state, scope[BEGAN], lambda: _call(scope, headers, version))
    if trace is not None:
        scope[TRACE] = trace


def end_trace(front: FrontEnd, scope: Scope, status: int) -> None:
    """End the trace of a request, if it is traced. ``status`` is the status of the response."""
    trace: Trace | None = scope.get(TRACE)
    if trace is not None and front.tracer is not None:
        front.tracer.end(trace, str(status), is_error=status >= 500)


def _call(scope: Scope, headers: Headers, version: str) -> Call:
    route = "/v2/models/{model}" + ("/versions/{version}" if version else "") + "/infer"
    method = scope["method"]
    attributes: dict[str, Any] = {
        "http.request.method": method,
        "http.route": route,
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
    }
    if scope.get("client"):
        attributes["client.address"] = scope["client"][0]
    if agent := headers.get(b"user-agent"):
        attributes["user_agent.original"] = str(agent, "latin-1")[:MAX_AGENT]
    return Call(f"{method} {route}", attributes)
