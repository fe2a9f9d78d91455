"""Metrics and their samples, rendered with prometheus_client."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import chain
from typing import Final, TypeAlias

from msgspec import Struct
from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from clockwork.units import SECOND, Nanos

Values: TypeAlias = Sequence[tuple[tuple[str, ...], float]]
"""Pairs of label values and the sample's value."""

PIECE: Final = 50
"""Approximate number of samples rendered at a time, which takes a quarter of a millisecond."""


class Kind(Enum):
    """Type of a metric. ``TRITON`` is a counter whose name lacks the suffix ``_total``, as Triton's names do."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    TRITON = "triton"


class Family(Struct, frozen=True):
    """A metric. The name of a counter ends in ``_total``; a histogram's samples have their own suffixes and ``le``."""

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()


class Distribution(Struct, frozen=True):
    """A histogram: the number of durations up to each bound, the number of all, and their sum."""

    cumulative: Sequence[int]
    count: int
    total: Nanos


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        yield self._metric


def rendered(family: Family, groups: Iterable[Values]) -> Iterator[bytes]:
    """Yield the metric's lines in pieces; a piece has the samples of whole groups, about `PIECE` of them."""
    first = True
    labels = family.labels
    samples: list[Sample] = []
    for values in groups:
        samples += [Sample(family.name, dict(zip(labels, of, strict=True)), value) for of, value in values]
        if len(samples) >= PIECE:
            yield _text(family, samples, first)
            samples, first = [], False
    if samples or first:
        yield _text(family, samples, first)


def rendered_histogram(
    family: Family, bounds: Sequence[Nanos], groups: Iterable[tuple[tuple[str, ...], Distribution]]
) -> Iterator[bytes]:
    """Yield a histogram's lines, in seconds, in pieces as `rendered` does."""
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
            yield _text(family, samples, first)
            samples, first = [], False
    if samples or first:
        yield _text(family, samples, first)


def _text(family: Family, samples: list[Sample], first: bool) -> bytes:
    """Return the lines of samples, with the lines HELP and TYPE if this is the first piece."""
    kind = Kind.GAUGE if family.kind is Kind.TRITON else family.kind
    metric = Metric(family.name.removesuffix("_total"), family.help, kind.value)
    metric.samples = samples
    text = generate_latest(_One(metric))
    help_line, type_line, lines = text.split(b"\n", 2)
    if not first:
        return lines
    if family.kind is Kind.TRITON:  # prometheus_client would append _total to the name of a counter
        type_line = type_line.removesuffix(b"gauge") + b"counter"
    return b"\n".join((help_line, type_line, lines))
