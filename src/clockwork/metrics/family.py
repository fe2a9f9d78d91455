"""Renders metrics and their samples as text, with prometheus_client."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from clockwork.units import SECOND, Nanos

Values: TypeAlias = Sequence[tuple[tuple[str, ...], float]]
"""The samples of a metric. Each sample is a pair: the values of the labels, and a number."""

PIECE: Final = 50
"""Approximate number of samples that are rendered in one step. Such a step takes a quarter of a millisecond."""

END: Final = b"# EOF\n"
"""The last line of a text in the format OpenMetrics."""


class Kind(Enum):
    """The type of a metric.

    ``TRITON`` is a counter whose name does not end in ``_total``, like the names of Triton's counters. OpenMetrics does
    not allow such counters, so their type in OpenMetrics is ``unknown``. Prometheus treats both types in the same way.
    """

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    TRITON = "triton"


class Family(Struct, frozen=True):
    """A metric's name, help text, type and labels. The name of a counter ends in ``_total``.

    The samples of a histogram get the suffixes and the label ``le`` when they are rendered.
    """

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()


class Distribution(Struct, frozen=True):
    """A histogram of durations: the counts of durations up to each bound, the total count, and the sum."""

    cumulative: Sequence[int]
    count: int
    total: Nanos


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        yield self._metric


class Piece(NamedTuple):
    """A part of a metric: some of its samples.

    The text of the first piece of a metric begins with the lines HELP and TYPE.
    """

    family: Family
    samples: list[Sample]
    first: bool

    def encode(self, open_metrics: bool = False) -> bytes:
        """Return the lines in Prometheus' text format or in OpenMetrics. The last line ``# EOF`` is not included."""
        family = self.family
        kind = family.kind.value
        if family.kind is Kind.TRITON:
            kind = "unknown" if open_metrics else "gauge"
        metric = Metric(family.name.removesuffix("_total"), family.help, kind)
        metric.samples = self.samples
        if open_metrics:
            encoded: bytes = openmetrics.generate_latest(_One(metric))  # type: ignore[no-untyped-call]
            text = encoded.removesuffix(END)
        else:
            text = generate_latest(_One(metric))
        help_line, type_line, lines = text.split(b"\n", 2)
        if not self.first:
            return lines
        if family.kind is Kind.TRITON and not open_metrics:  # prometheus_client would append _total to a counter's name
            type_line = type_line.removesuffix(b"gauge") + b"counter"
        return b"\n".join((help_line, type_line, lines))


def rendered(family: Family, groups: Iterable[Values]) -> Iterator[Piece]:
    """Yield a metric in pieces of about `PIECE` samples. A group of samples is never divided between two pieces."""
    first = True
    labels = family.labels
    samples: list[Sample] = []
    for values in groups:
        samples += [Sample(family.name, dict(zip(labels, of, strict=True)), value) for of, value in values]
        if len(samples) >= PIECE:
            yield Piece(family, samples, first)
            samples, first = [], False
    if samples or first:
        yield Piece(family, samples, first)


def rendered_histogram(
    family: Family, bounds: Sequence[Nanos], groups: Iterable[tuple[tuple[str, ...], Distribution]]
) -> Iterator[Piece]:
    """Yield a histogram in pieces of about `PIECE` samples. The samples are in seconds."""
    ends = [*(repr(bound / SECOND) for bound in bounds), "+Inf"]
    first = True
    samples: list[Sample] = []
    for values, distribution in groups:
        labels = dict(zip(family.labels, values, strict=True))
        counts = chain(distribution.cumulative, [distribution.count])
        samples += [
            Sample(f"{family.name}_bucket", labels | {"le": end}, count)
            for end, count in zip(ends, counts, strict=True)
        ]
        samples.append(Sample(f"{family.name}_sum", labels, distribution.total / SECOND))
        samples.append(Sample(f"{family.name}_count", labels, distribution.count))
        if len(samples) >= PIECE:
            yield Piece(family, samples, first)
            samples, first = [], False
    if samples or first:
        yield Piece(family, samples, first)
