"""Makes OpenTelemetry spans from ended traces. Only this module and `exporting` import the OpenTelemetry SDK.

The names of attributes are those of the stable semantic conventions for HTTP and RPC. Attributes that only Clockwork
has begin with ``clockwork.``.
"""

from collections.abc import Iterator
from random import Random
from typing import Any, Final

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from clockwork.messages.explanation import IN_TIME, outcome_of
from clockwork.messages.status import status_name
from clockwork.tracing.trace import EXEC, Phase, Trace, load_phase, phases
from clockwork.units import MILLISECOND, Nanos
from clockwork.version import __version__

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("clockwork", __version__)
_UNSET, _ERROR = Status(StatusCode.UNSET), StatusCode.ERROR


class _Resource(Resource):
    """A resource that computes its hash once. The SDK's encoder needs the hash for each span."""

    def __init__(self, original: Resource) -> None:
        super().__init__(original.attributes, original.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def resource() -> Resource:
    """Return the resource of this server. Attributes in ``OTEL_RESOURCE_ATTRIBUTES`` have precedence."""
    found = Resource({SERVICE_VERSION: __version__}).merge(Resource.create())
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: "clockwork"}))
    return _Resource(found)


class SpanMaker:
    """Makes the spans of one server."""

    def __init__(self, random: Random) -> None:
        """Read the resource's attributes from the environment. The ids of spans are drawn from ``random``."""
        self._resource = resource()
        self._random = random

    def spans(self, trace: Trace, epoch: Nanos) -> Iterator[ReadableSpan]:
        """Yield the spans of a trace: the call, and the parts of its time.

        ``epoch`` is the time of day at which the monotonic clock was zero.
        """
        parent = trace.parent
        state = TraceState.from_header([parent.state]) if parent is not None and parent.state else TraceState()
        server = self._context(trace, trace.span_id, state)
        above = None
        if parent is not None:
            flags = _SAMPLED if parent.sampled else TraceFlags()
            above = SpanContext(trace.trace_id, parent.span_id, True, flags, state)

        def made(phase: Phase, context: SpanContext, attributes: dict[str, Any], **more: Any) -> ReadableSpan:
            return ReadableSpan(
                name=phase.name,
                context=context,
                resource=self._resource,
                attributes=attributes,
                instrumentation_scope=_SCOPE,
                start_time=phase.begin + epoch,
                end_time=phase.end + epoch,
                **more,
            )

        status = Status(_ERROR, _message(trace)) if trace.is_error else _UNSET
        whole = Phase(trace.call.name, trace.arrival, trace.end)
        yield made(whole, server, _attributes(trace), parent=above, kind=SpanKind.SERVER, status=status)
        for phase in phases(trace):
            context = self._context(trace, trace.exec_id if phase.name == EXEC else self._new_id(), state)
            if phase.name == EXEC:
                yield made(phase, context, _exec_attributes(trace), parent=server, links=_links(trace))
            else:
                yield made(phase, context, {}, parent=server)
            if (load := load_phase(trace, phase)) is not None:
                device = {"clockwork.device": trace.device}
                yield made(load, self._context(trace, self._new_id(), state), device, parent=context)

    def _new_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def _context(self, trace: Trace, span_id: int, state: TraceState) -> SpanContext:
        return SpanContext(trace.trace_id, span_id, False, _SAMPLED, state)


def _links(trace: Trace) -> list[Link]:
    """Return links to the ``exec`` spans of the other traced requests of the batch."""
    own = (trace.trace_id, trace.exec_id)
    return [
        Link(SpanContext(trace_id, span_id, False, _SAMPLED))
        for trace_id, span_id in tuple(trace.links)
        if (trace_id, span_id) != own
    ]


def _message(trace: Trace) -> str | None:
    return None if trace.response is None else trace.response.message or None


def _attributes(trace: Trace) -> dict[str, Any]:
    found: dict[str, Any] = dict(trace.call.attributes)
    if "http.request.method" in found:
        found["http.response.status_code"] = int(trace.code)
    else:
        found["rpc.response.status_code"] = trace.code
    if trace.is_error:
        found["error.type"] = trace.code
    if trace.model:
        found["clockwork.model"] = trace.model
    response = trace.response
    if response is None:
        return found
    outcome = outcome_of(response.status)
    more = {
        "clockwork.request.id": response.request_id,
        "clockwork.model.version": response.version or None,
        "clockwork.outcome": outcome,
        "clockwork.status": status_name(response.status),
        "clockwork.message": response.message or None,
        "clockwork.refusal.reason": trace.reason or None,
        "clockwork.promise.broken": True if response.admitted and outcome != IN_TIME else None,
        "clockwork.slo_ms": trace.slo / MILLISECOND if trace.slo else None,
        "clockwork.predicted_ms": None if response.predicted is None else response.predicted / MILLISECOND,
        "clockwork.retry_after_ms": None if response.retry_after is None else response.retry_after / MILLISECOND,
        "clockwork.cold_start": trace.cold_start if trace.executed else None,
    }
    return found | {name: value for name, value in more.items() if value is not None}


def _exec_attributes(trace: Trace) -> dict[str, Any]:
    assert trace.response is not None
    return {
        "clockwork.device": trace.device,
        "clockwork.action.id": trace.action,
        "clockwork.batch.rows": trace.response.timing.batch_size,
    }
