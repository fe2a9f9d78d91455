"""Exports ended traces from a thread, so that the event loop never waits for a collector.

Ended traces wait in a queue whose number of spans is limited. If the queue is full, further traces are dropped and
counted. If the collector does not take a batch within the exporter's time limit, the batch is dropped and counted too.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Protocol

from clockwork.clock import monotonic_epoch
from clockwork.errors import ServerError
from clockwork.tracing.config import GRPC, TracingConfig
from clockwork.tracing.trace import Trace
from clockwork.units import SECOND

FINISH: Final = 2.0
"""Longest time in seconds that the export of the last spans may take when the server ends."""

log = logging.getLogger("clockwork.tracing")


class Exporter(Protocol):
    """The methods of the SDK's exporters that are used."""

    def export(self, spans: Sequence[Any]) -> Any:
        """Send spans, and return whether the collector has taken them."""
        ...

    def shutdown(self) -> None:
        """End exports that still wait."""
        ...


class ExportThread:
    """The queue of ended traces, and the thread that exports them."""

    def __init__(
        self, config: TracingConfig, exporter: Exporter, begin_thread: Callable[[], None] = lambda: None
    ) -> None:
        """Start the thread. The thread calls ``begin_thread`` first."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        from clockwork.tracing.spans import SpanMaker

        self.exported = 0  #: number of spans that the collector has taken
        self.dropped = {"queue_full": 0, "export_failed": 0}  #: number of spans that were dropped, by reason
        self._max_queue, self._max_batch, self._delay = config.max_queue, config.max_batch, config.delay / SECOND
        self._exporter, self._success, self._maker = exporter, SpanExportResult.SUCCESS, SpanMaker(Random())
        self._queue: deque[tuple[Trace, int]] = deque()  #: traces with the number of their spans
        self._queued = 0  #: number of spans in the queue
        self._lock = threading.Lock()
        self._due = threading.Event()
        self._ends = False
        self._failing = False
        self._begin_thread = begin_thread
        self._thread = threading.Thread(target=self._run, name="clockwork-spans", daemon=True)
        self._thread.start()

    def put(self, trace: Trace) -> None:
        """Add an ended trace to the queue, or drop it if the queue is full."""
        spans = trace.spans
        with self._lock:
            if self._queued + spans > self._max_queue:
                self.dropped["queue_full"] += spans
                return
            self._queued += spans
            self._queue.append((trace, spans))
            due = self._queued >= self._max_batch
        if due:
            self._due.set()

    def close(self) -> None:
        """Export the traces in the queue for at most `FINISH` seconds, and end the thread."""
        self._ends = True
        self._due.set()
        self._thread.join(FINISH)
        self._exporter.shutdown()

    def _run(self) -> None:
        self._begin_thread()
        while True:
            self._due.wait(self._delay)
            self._due.clear()
            while batch := self._take():
                self._export(batch)
            if self._ends:
                return

    def _take(self) -> list[Trace]:
        """Take the traces of the next batch from the queue."""
        taken: list[Trace] = []
        total = 0
        with self._lock:
            while self._queue and (not taken or total + self._queue[0][1] <= self._max_batch):
                trace, spans = self._queue.popleft()
                total += spans
                taken.append(trace)
            self._queued -= total
        return taken

    def _export(self, traces: list[Trace]) -> None:
        epoch = monotonic_epoch()
        spans = [span for trace in traces for span in self._maker.spans(trace, epoch)]
        try:
            done = self._exporter.export(spans) is self._success
            why = "the collector did not take them"
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything, and the thread must go on
            done, why = False, str(error) or type(error).__name__
        if done:
            self.exported += len(spans)
        else:
            self.dropped["export_failed"] += len(spans)
        if done == self._failing:
            self._failing = not done
            if done:
                log.info("spans are exported again", extra={"event": "spans_exported", "fields": {}})
            else:
                extra = {"event": "spans_not_exported", "fields": {"reason": why}}
                log.warning("spans cannot be exported and are dropped: %s", why, extra=extra)


def export_thread(config: TracingConfig, begin_thread: Callable[[], None]) -> ExportThread:
    """Start a thread that exports to the collector of the variables ``OTEL_EXPORTER_OTLP_*``.

    Raises:
        ServerError: the OpenTelemetry SDK is not installed, or a variable has a wrong value.
    """
    exporter = make_exporter(config)
    return ExportThread(config, exporter, begin_thread)


def make_exporter(config: TracingConfig) -> Exporter:
    """Return the SDK's exporter for the protocol. The exporter reads the variables ``OTEL_EXPORTER_OTLP_*``.

    Raises:
        ServerError: the OpenTelemetry SDK is not installed, or a variable has a wrong value.
    """
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `ExportThread` logs failures, but only the first
    try:
        module: Any
        if config.protocol == GRPC:
            import opentelemetry.exporter.otlp.proto.grpc.trace_exporter as module
        else:
            import opentelemetry.exporter.otlp.proto.http.trace_exporter as module
    except ImportError as error:
        text = f"--otel needs the OpenTelemetry SDK ({error}); install clockwork-serve[otel]"
        raise ServerError(text) from None
    try:
        made: Exporter = module.OTLPSpanExporter()
    except (OSError, ValueError) as error:
        raise ServerError(f"the exporter of spans cannot be made: {error}; check OTEL_EXPORTER_OTLP_*") from None
    return made
