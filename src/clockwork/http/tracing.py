"""Describes an HTTP call by OpenTelemetry's semantic conventions for HTTP servers."""

from typing import Any, Final

from clockwork.frontend import FrontEnd
from clockwork.http.exchange import Exchange
from clockwork.http.heads import Headers
from clockwork.messages.request_ids import STATE_HEADER, TRACE_HEADER, trace_context
from clockwork.tracing.trace import Call

MAX_AGENT: Final = 256
"""Longest ``User-Agent`` in characters that is exported. Longer values are cut."""

CLIENT_GONE: Final = 499
"""Status of a request whose client has closed the connection before the response."""

_PARENT: Final = TRACE_HEADER.encode()
_STATE: Final = STATE_HEADER.encode()


def context_of(exchange: Exchange, headers: Headers) -> tuple[str, str]:
    """Return the trace context of a request (`trace_context`), or two empty strings if the client sent none."""
    if _PARENT not in headers:
        return "", ""
    found = (
        [str(value.strip(b" \t"), "latin-1") for key, value in exchange.headers if key == name]  # httptools strips less
        for name in (_PARENT, _STATE)
    )
    return trace_context(*found)


def begin_trace(front: FrontEnd, exchange: Exchange, headers: Headers, version: str) -> None:
    """Begin the trace of an inference request, if it may be exported. ``version`` is the version in the path."""
    if front.tracer is None:
        return
    parent, state = context_of(exchange, headers)
    exchange.trace = front.tracer.begin(parent, state, exchange.arrived, lambda: _call(exchange, headers, version))


def end_trace(front: FrontEnd, exchange: Exchange, status: int) -> None:
    """End the trace of a request, if it is traced. ``status`` is the status of the response."""
    if exchange.trace is not None and front.tracer is not None:
        front.tracer.end(exchange.trace, str(status), is_error=status >= 500)


def _call(exchange: Exchange, headers: Headers, version: str) -> Call:
    route = "/v2/models/{model}" + ("/versions/{version}" if version else "") + "/infer"
    method = exchange.method
    attributes: dict[str, Any] = {
        "http.request.method": method,
        "http.route": route,
        "url.path": exchange.path,
        "url.scheme": exchange.connection.scheme,
        "network.protocol.version": exchange.version,
    }
    if exchange.connection.client:
        attributes["client.address"] = exchange.connection.client[0]
    if agent := headers.get(b"user-agent"):
        attributes["user_agent.original"] = str(agent, "latin-1")[:MAX_AGENT]
    return Call(f"{method} {route}", attributes)
