"""Begins and ends the traces of requests on the controller's event loop."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from clockwork.clock import Clock
from clockwork.controller.events import Respond
from clockwork.messages.counts import REFUSAL_STATUSES
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import InferResponse
from clockwork.messages.results import Timing
from clockwork.messages.status import Status
from clockwork.state import ClockworkState
from clockwork.tracing.config import TracingConfig
from clockwork.tracing.context import parent_of
from clockwork.tracing.trace import Call, Trace
from clockwork.units import Nanos

MAX_BATCHES: Final = 1024
"""Number of the last batches whose traced requests are linked."""


class Export(Protocol):
    """The destination of ended traces."""

    exported: int  #: number of spans that a collector has taken
    dropped: dict[str, int]  #: number of spans that were dropped, by reason

    def put(self, trace: Trace) -> None:
        """Export a trace later. The call does not block."""
        ...

    def close(self) -> None:
        """Export the traces that wait, within a time limit. The call blocks."""
        ...


class Tracer:
    """Decides which requests are traced, and passes ended traces on."""

    def __init__(
        self,
        config: TracingConfig,
        clock: Clock,
        state: Callable[[], ClockworkState],
        export: Export,
        bits: Callable[[int], int],
    ) -> None:
        """Create a tracer.

        Args:
            config: which requests are traced.
            clock: the controller's clock.
            state: returns the controller's state.
            export: exports the traces that have ended.
            bits: returns a random number with this many bits.
        """
        self._sampling = config.sampling
        self._reads_context, self._keeps_failures = config.reads_context, config.keep_failures
        self.export: Final = export
        self._clock, self._state, self._bits = clock, state, bits
        self._batches: OrderedDict[int, list[tuple[int, int]]] = OrderedDict()

    def begin(self, traceparent: str, tracestate: str, arrival: Nanos, call: Callable[[], Call]) -> Trace | None:
        """Return the trace of a request, or None if the request is certainly not exported.

        ``call`` describes the client's call. It is only called for a request that is traced.
        """
        parent = parent_of(traceparent, tracestate) if traceparent and self._reads_context else None
        trace_id = self._bits(128) if parent is None else parent.trace_id
        sampled = self._sampling.takes(trace_id, parent)
        if not (sampled or self._keeps_failures):
            return None
        return Trace(trace_id or 1, self._bits(64) or 1, self._bits(64) or 1, parent, sampled, arrival, call())

    def answered(self, trace: Trace | None, command: Respond) -> None:
        """Note the controller's response to a request. ``trace`` is None if the request is not traced."""
        if trace is None:
            return
        response, request = command.response, command.request
        assert isinstance(response, InferResponse)
        refused = response.status in REFUSAL_STATUSES
        reason = (command.reason or RefusalReason.OTHER).value if refused else ""
        trace.answered(response, request, reason)
        broken = response.admitted and response.status != Status.SUCCESS
        trace.sampled = trace.sampled or (self._keeps_failures and (broken or refused))
        if not trace.sampled or not trace.executed:
            return
        if response.timing.load and request is not None:
            trace.loaded = self._last_load(trace.device, request.model.name)
        if trace.action:
            trace.links = self._batches.setdefault(trace.action, [])
            trace.links.append((trace.trace_id, trace.exec_id))
            if len(self._batches) > MAX_BATCHES:
                self._batches.popitem(last=False)

    def end(self, trace: Trace, code: str, *, is_error: bool) -> None:
        """End a trace after its response was sent, and export it if it is sampled. `Trace` explains the arguments."""
        if trace.sampled:
            trace.end, trace.code, trace.is_error = self._clock.now(), code, is_error
            self.export.put(trace)

    def _last_load(self, device: str, model: str) -> Timing | None:
        devices = (gpu for worker in self._state().workers.values() for gpu in worker.gpus if gpu.label == device)
        return next((gpu.loads.get(model) for gpu in devices), None)
