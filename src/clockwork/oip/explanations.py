"""Describes recent requests in JSON, with times in milliseconds."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from clockwork.messages.explanation import ExplainedVerdict
from clockwork.steps import Steps
from clockwork.units import MILLISECOND

PER_STEP: Final = 25
"""Number of requests that are described in one step."""

_TIMES: Final = frozenset(
    {
        "actual",
        "age",
        "at",
        "begin",
        "completion",
        "estimate",
        "margin",
        "start",
        "value",
        "way_back",
        "way_there",
        "weights_ready",
        "end",
        "expected",
        "expected_begin",
        "planned",
        "predicted",
        "retry_after",
        "sent",
        "slo",
        "total",
    }
)
"""Fields that are times. The names of these fields get the suffix ``_ms``."""

_COUNTS: Final[Mapping[type[Struct], frozenset[str]]] = {ExplainedVerdict: frozenset({"planned", "sent"})}
"""Fields of some structs that are numbers of batches, although fields of other structs with these names are times."""


def described_list(values: Sequence[Struct]) -> Steps[list[Any]]:
    """Return several structs as a list of JSON objects, in steps."""
    found = []
    for number, value in enumerate(values, 1):
        found.append(described(value))
        if number % PER_STEP == 0:
            yield
    return found


def described(value: Any) -> Any:
    """Return a struct of `clockwork.messages.explanation` as a JSON object. Fields without a value are left out."""
    match value:
        case Struct():
            content: dict[str, Any] = {}
            counts = _COUNTS.get(type(value), frozenset())
            for field in value.__struct_fields__:
                found = getattr(value, field)
                if found is None:
                    continue
                if field in _TIMES and field not in counts:
                    content[f"{field}_ms"] = found / MILLISECOND
                else:
                    content[field] = described(found)
            return content
        case tuple():
            return [described(item) for item in value]
    return value
