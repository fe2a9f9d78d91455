"""Traces gRPC calls, and describes them by OpenTelemetry's semantic conventions for RPC servers."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from clockwork.errors import ClockworkError
from clockwork.frontend import FrontEnd, failure_of_error
from clockwork.grpc_frontend.calls import Call
from clockwork.grpc_frontend.metadata import context_of
from clockwork.tracing import trace as tracing
from clockwork.units import Nanos

ERRORS: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The status codes that count as errors of the server in the semantic conventions for gRPC."""

log = logging.getLogger("clockwork.grpc")


@contextmanager
def traced(front: FrontEnd, call: Call, method: str, arrival: Nanos) -> Iterator[tracing.Trace | None]:
    """Trace one inference request within the context. The context's value is None if the request is not traced.

    The trace ends in the next turn of the event loop, when the response was written.
    """
    tracer = front.tracer
    trace = None
    if tracer is not None:
        parent, state = context_of(call)
        trace = tracer.begin(parent, state, arrival, lambda: _call(call, method))
    if tracer is None or trace is None:
        yield None
        return
    code = "INTERNAL"
    try:
        yield trace
        code = "OK"
    except ClockworkError as error:
        code = failure_of_error(error, log).grpc
        raise
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    finally:
        asyncio.get_running_loop().call_soon(lambda: tracer.end(trace, code, is_error=code in ERRORS))


def _call(call: Call, method: str) -> tracing.Call:
    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    protocol, _, rest = call.peer.partition(":")
    if protocol in ("ipv4", "ipv6"):
        attributes["client.address"] = rest.rpartition(":")[0].strip("[]")
    return tracing.Call(method, attributes)
