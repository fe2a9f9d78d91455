"""The queue of traces, and the thread that exports them."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from clockwork.tracing.config import TracingConfig
from clockwork.tracing.exporting import ExportThread
from clockwork.units import MILLISECOND
from tracing.traces import executed

FIVE = 5  #: number of spans of an executed request


class Exporter:
    """An exporter that a test holds back, and that fails or raises on request."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.began, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        self.result: SpanExportResult | Exception = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        self.began.set()
        assert self.may_end.wait(60)
        if isinstance(self.result, Exception):
            raise self.result
        self.batches.append(list(spans))
        return self.result

    def shutdown(self) -> None:
        self.may_end.set()


def config(**settings: Any) -> TracingConfig:
    return TracingConfig(**{"delay": MILLISECOND, **settings})


def test_all_spans_of_a_trace_are_exported_together_and_counted() -> None:
    exporter = Exporter()
    thread = ExportThread(config(max_batch=2 * FIVE), exporter)
    for number in range(1, 7):
        thread.put(executed(number))
    thread.close()
    traces = [[span.context.trace_id for span in batch] for batch in exporter.batches]
    assert sorted(number for batch in traces for number in batch) == sorted(list(range(1, 7)) * FIVE)
    assert all(len(batch) <= 2 * FIVE and batch.count(batch[0]) == FIVE for batch in traces)
    assert (thread.exported, sum(thread.dropped.values())) == (6 * FIVE, 0)


def test_a_full_queue_drops_traces_and_counts_their_spans() -> None:
    exporter = Exporter()
    exporter.may_end.clear()
    thread = ExportThread(config(max_queue=2 * FIVE, max_batch=FIVE), exporter)
    thread.put(executed(1))
    assert exporter.began.wait(60)
    for number in range(2, 6):  # the first trace is being exported, and the next two wait
        thread.put(executed(number))
    assert thread.dropped == {"queue_full": 2 * FIVE, "export_failed": 0}
    exporter.may_end.set()
    thread.close()
    assert {span.context.trace_id for batch in exporter.batches for span in batch} == {1, 2, 3}
    assert thread.exported == 3 * FIVE


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, OSError("connection refused")])
def test_failed_exports_are_counted_and_logged_once(
    result: SpanExportResult | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Exporter()
    exporter.result = result
    with caplog.at_level(logging.INFO, "clockwork.tracing"):
        thread = ExportThread(config(max_batch=FIVE), exporter)
        for number in range(1, 4):
            thread.put(executed(number))
        thread.close()
    assert thread.dropped == {"queue_full": 0, "export_failed": 3 * FIVE}
    (record,) = caplog.records
    why = "the collector did not take them" if isinstance(result, SpanExportResult) else "connection refused"
    assert record.getMessage() == f"spans cannot be exported and are dropped: {why}"
