"""The metrics of shadows, which are versions that execute copies of live requests."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from clockwork.messages.shadows import MISMATCHES, RUNNING, OutputComparison, ShadowStatus
from clockwork.metrics.family import Family, Kind, Piece, Values, rendered

BY_VERSION: Final = ("model", "version")
BY_OUTPUT: Final = (*BY_VERSION, "output")

RUNS: Final = Family("clockwork_shadow_running", "Whether the shadow runs.", Kind.GAUGE, BY_VERSION)
COPIES: Final = Family(
    "clockwork_shadow_copies_total",
    "Copies of live requests by outcome: the outputs were equal, the outputs were different, the copy failed, or the "
    "copy was dropped.",
    Kind.COUNTER,
    (*BY_VERSION, "outcome"),
)
KINDS: Final = Family(
    "clockwork_shadow_mismatches_total",
    "Copies whose outputs do not match the live outputs, by kind of mismatch.",
    Kind.COUNTER,
    (*BY_VERSION, "kind"),
)
DIFFERENCE: Final = Family(
    "clockwork_shadow_max_difference",
    "Largest absolute difference between a float of a live output and of its copy.",
    Kind.GAUGE,
    BY_OUTPUT,
)
ROWS: Final = Family(
    "clockwork_shadow_rows_total",
    "Rows of float outputs, by whether the largest element is at the same place.",
    Kind.COUNTER,
    (*BY_OUTPUT, "agreed"),
)
FAMILIES: Final = (RUNS, COPIES, KINDS, DIFFERENCE, ROWS)
"""The metrics of shadows. A server without shadows exposes no samples of these metrics."""


def pieces(shadows: Iterable[ShadowStatus]) -> Iterator[Piece]:
    """Yield the metrics of shadows in pieces. Each piece takes a fraction of a millisecond."""
    known: Sequence[ShadowStatus] = list(shadows)
    yield from rendered(RUNS, ([((each.name, each.version), each.state == RUNNING)] for each in known))
    yield from rendered(COPIES, map(_outcomes, known))
    yield from rendered(
        KINDS,
        ([((each.name, each.version, kind), each.mismatches.get(kind, 0)) for kind in MISMATCHES] for each in known),
    )
    outputs = [(each, output) for each in known for output in each.outputs]
    yield from rendered(
        DIFFERENCE, ([((each.name, each.version, output.name), output.max_difference)] for each, output in outputs)
    )
    yield from rendered(ROWS, (_rows(each, output) for each, output in outputs))


def _outcomes(shadow: ShadowStatus) -> Values:
    counts = {
        "equal": shadow.equal,
        "different": shadow.compared - shadow.equal,
        "failed": shadow.failed,
        "dropped": shadow.dropped,
    }
    return [((shadow.name, shadow.version, outcome), count) for outcome, count in counts.items()]


def _rows(shadow: ShadowStatus, output: OutputComparison) -> Values:
    at = (shadow.name, shadow.version, output.name)
    return [((*at, "yes"), output.rows_agreed), ((*at, "no"), output.rows - output.rows_agreed)]
