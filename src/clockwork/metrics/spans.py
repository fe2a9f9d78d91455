"""Metrics of exported spans. A server that traces no requests does not have these metrics."""

from collections.abc import Iterator
from typing import Final

from clockwork.metrics.family import Family, Kind, Piece, rendered
from clockwork.tracing.tracer import Export

EXPORTED: Final = Family(
    "clockwork_spans_exported_total", "Spans that the OpenTelemetry collector has taken.", Kind.COUNTER
)
DROPPED: Final = Family(
    "clockwork_spans_dropped_total", "Spans that were dropped, by reason.", Kind.COUNTER, ("reason",)
)


def pieces(export: Export) -> Iterator[Piece]:
    """Yield the metrics in pieces."""
    yield from rendered(EXPORTED, [[((), export.exported)]])
    yield from rendered(DROPPED, [[((reason,), count) for reason, count in export.dropped.items()]])
