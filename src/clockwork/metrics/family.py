"""A metric with its name, its meaning and its labels, and how samples become the library's objects."""

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
"""Values of labels, and the number under them."""

PIECE: Final = 50
"""Samples that are rendered at a time, about: a quarter of a millisecond's work."""


class Kind(Enum):
    """How a metric behaves. ``TRITON`` is a counter whose name has no ``_total``, as Triton's have not."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    TRITON = "triton"


class Family(Struct, frozen=True):
    """A metric. A counter's name ends in ``_total``; samples of a histogram carry their own suffixes and ``le``."""

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()


class Distribution(Struct, frozen=True):
    """A histogram: how many were no longer than each bound, of all, and their sum."""

    cumulative: Sequence[int]
    count: int
    total: Nanos


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        yield self._metric


def rendered(family: Family, groups: Iterable[Values]) -> Iterator[bytes]:
    """The family's lines in pieces: each has the samples of whole groups, `PIECE` or a few more."""
    first = True
    labels = family.labels
    made: list[Sample] = []
    for values in groups:
        made += [Sample(family.name, dict(zip(labels, said, strict=True)), value) for said, value in values]
        if len(made) >= PIECE:
            yield _text(family, made, first)
            made, first = [], False
    if made or first:
        yield _text(family, made, first)


def rendered_histogram(
    family: Family, bounds: Sequence[Nanos], groups: Iterable[tuple[tuple[str, ...], Distribution]]
) -> Iterator[bytes]:
    """Like `rendered`, of a histogram in seconds."""
    ends = [*(repr(bound / SECOND) for bound in bounds), "+Inf"]
    first = True
    made: list[Sample] = []
    for said, distribution in groups:
        labels = dict(zip(family.labels, said, strict=True))
        counts = chain(distribution.cumulative, [distribution.count])
        made += [
            Sample(f"{family.name}_bucket", labels | {"le": end}, count)
            for end, count in zip(ends, counts, strict=True)
        ]
        made.append(Sample(f"{family.name}_sum", labels, distribution.total / SECOND))
        made.append(Sample(f"{family.name}_count", labels, distribution.count))
        if len(made) >= PIECE:
            yield _text(family, made, first)
            made, first = [], False
    if made or first:
        yield _text(family, made, first)


def _text(family: Family, samples: list[Sample], first: bool) -> bytes:
    """Lines of samples; the head only of the first piece."""
    kind = Kind.GAUGE if family.kind is Kind.TRITON else family.kind
    metric = Metric(family.name.removesuffix("_total"), family.help, kind.value)
    metric.samples = samples
    text = generate_latest(_One(metric))
    about, of_type, lines = text.split(b"\n", 2)
    if not first:
        return lines
    if family.kind is Kind.TRITON:  # the library would have a counter's name end in _total
        of_type = of_type.removesuffix(b"gauge") + b"counter"
    return b"\n".join((about, of_type, lines))
