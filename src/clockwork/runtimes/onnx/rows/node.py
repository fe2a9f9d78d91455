"""Defines the table of rules, and `Node`, which is the argument of a rule."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from clockwork.runtimes.rows.moves import axis_of
from clockwork.runtimes.rows.rules import RuleTable
from clockwork.runtimes.rows.size import Size, number, opaque
from clockwork.runtimes.rows.value import COUNTS, MixesRowsError, UnknownRowsError, Value, across_error

Rule: TypeAlias = Callable[["Node"], Sequence[Value]]

RULES: Final = RuleTable[Rule]()
"""Rules by operator. The name of an operator outside ONNX's own domain starts with the domain and a dot."""

rule: Final = RULES.rule


class Node:
    """A node of an ONNX graph, with the known properties of its inputs."""

    def __init__(
        self,
        operator: str,
        version: int,
        attributes: dict[str, Any],
        inputs: Sequence[Value | None],
        outputs: Sequence[str],
    ) -> None:
        """``version`` is the version of the operator set. Inputs that the node omits are None."""
        self.operator = operator
        self.version = version
        self.attributes = attributes
        self.inputs = inputs
        self.outputs = outputs
        self.one_scale = False  #: whether one quantisation scale for a whole batch is accepted

    @property
    def out(self) -> str:
        """Name of the first output. No other tensor has this name."""
        return self.outputs[0]

    def has(self, at: int) -> bool:
        """Whether the input is present."""
        return at < len(self.inputs) and self.inputs[at] is not None

    def value(self, at: int) -> Value:
        """Return an input for an operator that uses the input's elements.

        Raises:
            UnknownRowsError: the input is missing.
            MixesRowsError: the input's elements depend on the number of rows.
        """
        found = self.input(at)
        if found.depends_on_batch_size:
            raise MixesRowsError(COUNTS)
        return found

    def input(self, at: int) -> Value:
        """Return an input for an operator that uses only the input's shape or known elements."""
        found = self.inputs[at] if at < len(self.inputs) else None
        if found is None:
            raise UnknownRowsError(f"has no input {at}")
        return found

    def values(self, start: int = 0) -> list[Value]:
        """Return the inputs that are present, beginning with number ``start``."""
        return [self.value(at) for at in range(start, len(self.inputs)) if self.has(at)]

    def numbers(self, at: int) -> list[Any]:
        """Return the known elements of an input that is a parameter. The elements are numbers or sizes.

        Raises:
            MixesRowsError: the input is computed from rows.
            UnknownRowsError: the elements are not known.
        """
        found = self.input(at)
        if found.batch_axis is not None:
            raise MixesRowsError(f"takes input {at}, a parameter for the whole batch, from its rows")
        if found.content is None:
            raise UnknownRowsError(f"has a parameter, input {at}, whose value is not known")
        return list(found.content.flat)

    def parameters(self, name: str, at: int) -> list[Any] | None:
        """Return a list that is an attribute or, in later versions, an input. Return None if the list is missing."""
        if name in self.attributes:
            return list(self.attributes[name])
        return self.numbers(at) if self.has(at) else None

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """Return an attribute that names an axis of a tensor of this rank.

        The returned axis is counted from the front.
        """
        return axis_of(int(self.attributes.get(name, default)), rank)

    def axes(self, rank: int, at: int = 1, name: str = "axes") -> tuple[int, ...] | None:
        """Return axes that are given by an attribute or an input. Return None if the axes are missing."""
        found = self.parameters(name, at)
        return None if found is None else tuple(axis_of(as_int(axis), rank) for axis in found)

    def unknown_size(self, at: object) -> Size:
        """Return an unknown size for an axis of the output, because no rule computes this size.

        ``at`` makes the name of the unknown unique.
        """
        return opaque(f"{self.out}.{at}")

    def rowwise(self, value: Value, rank: int) -> Value:
        """Return the tensor, after checking that it has this rank and that its batch axis is 0 or None."""
        if value.rank != rank:
            raise UnknownRowsError(f"has an input with {value.rank} dimensions; {rank} are expected")
        if value.batch_axis not in (None, 0):
            raise across_error(value)
        return value


def as_int(parameter: Any) -> int:
    """Return a parameter as an int, for a rule that needs to know its value."""
    found = parameter.value if isinstance(parameter, Size) else parameter
    if found is None or found != int(found):
        raise UnknownRowsError("has a parameter that depends on the size of its input")
    return int(found)


def as_size(parameter: Any) -> Size:
    """Return a number as a size."""
    return parameter if isinstance(parameter, Size) else number(as_int(parameter))
