"""A node of an ONNX graph as its rule sees it, and the table of rules."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from clockwork.runtimes.rows.moves import axis_of
from clockwork.runtimes.rows.rules import RuleTable
from clockwork.runtimes.rows.size import Size, number, opaque
from clockwork.runtimes.rows.value import COUNTS, MixesRowsError, UnknownRowsError, Value, across_error

Rule: TypeAlias = Callable[["Node"], Sequence[Value]]

RULES: Final = RuleTable[Rule]()
"""Rules by operator. The name of an operator outside ONNX's own domain is preceded by its domain and a dot."""

rule: Final = RULES.rule


class Node:
    """One node: its operator, its attributes, and what is known of its inputs."""

    def __init__(
        self,
        operator: str,
        version: int,
        attributes: dict[str, Any],
        inputs: Sequence[Value | None],
        outputs: Sequence[str],
    ) -> None:
        """``version``: of the operator set. An input that is left out is None."""
        self.operator = operator
        self.version = version
        self.attributes = attributes
        self.inputs = inputs
        self.outputs = outputs
        self.one_scale = False  #: whether a scale that is chosen for a whole batch is accepted

    @property
    def out(self) -> str:
        """The name of the first output, which no other tensor has."""
        return self.outputs[0]

    def has(self, at: int) -> bool:
        """Whether the input is given."""
        return at < len(self.inputs) and self.inputs[at] is not None

    def value(self, at: int) -> Value:
        """An input whose elements are computed with.

        Raises:
            UnknownRowsError: it is not given.
            MixesRowsError: its elements depend on the number of rows.
        """
        found = self.input(at)
        if found.depends_on_batch_size:
            raise MixesRowsError(COUNTS)
        return found

    def input(self, at: int) -> Value:
        """An input of which only the shape, or the content as numbers, matters."""
        found = self.inputs[at] if at < len(self.inputs) else None
        if found is None:
            raise UnknownRowsError(f"has no input {at}")
        return found

    def values(self, start: int = 0) -> list[Value]:
        """The inputs from ``start`` on that are given."""
        return [self.value(at) for at in range(start, len(self.inputs)) if self.has(at)]

    def numbers(self, at: int) -> list[Any]:
        """The content of an input that is a parameter: numbers and sizes.

        Raises:
            MixesRowsError: it is computed from rows.
            UnknownRowsError: it is not known.
        """
        found = self.input(at)
        if found.batch_axis is not None:
            raise MixesRowsError(f"takes input {at} from the rows of the batch, for the whole of the batch")
        if found.content is None:
            raise UnknownRowsError(f"takes input {at} from a computation that cannot be followed")
        return list(found.content.flat)

    def parameters(self, name: str, at: int) -> list[Any] | None:
        """A list that is an attribute or, in later versions, an input; None if it is not given."""
        if name in self.attributes:
            return list(self.attributes[name])
        return self.numbers(at) if self.has(at) else None

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """An attribute that is an axis of a tensor of that rank."""
        return axis_of(int(self.attributes.get(name, default)), rank)

    def axes(self, rank: int, at: int = 1, name: str = "axes") -> tuple[int, ...] | None:
        """Axes that are an attribute or an input; None if they are not given."""
        found = self.parameters(name, at)
        return None if found is None else tuple(axis_of(as_int(array), rank) for array in found)

    def unknown_size(self, at: object) -> Size:
        """A size of the output that no rule computes."""
        return opaque(f"{self.out}.{at}")

    def rowwise(self, value: Value, rank: int) -> Value:
        """Check that a tensor has that rank, and its rows along axis 0 or none."""
        if value.rank != rank:
            raise UnknownRowsError(f"has an input with {value.rank} dimensions, where {rank} are expected")
        if value.batch_axis not in (None, 0):
            raise across_error(value)
        return value


def as_int(item: Any) -> int:
    """A number that a rule needs to know.

    Raises:
        UnknownRowsError: it depends on unknown sizes.
    """
    found = item.value if isinstance(item, Size) else item
    if found is None or found != int(found):
        raise UnknownRowsError("has a parameter that depends on the size of its input")
    return int(found)


def as_size(item: Any) -> Size:
    """A number as a size."""
    return item if isinstance(item, Size) else number(as_int(item))
