"""Defines the table of rules, and `Call`, which is the argument of a rule."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from clockwork.runtimes.rows.moves import axis_of
from clockwork.runtimes.rows.rules import RuleTable
from clockwork.runtimes.rows.size import Size
from clockwork.runtimes.rows.value import COUNTS, MixesRowsError, Shape, UnknownRowsError, Value

Result: TypeAlias = Value | Sequence[Value]
"""Result of a rule: one or more tensors. The caller replaces the shapes of these tensors with the shapes that the
exporter found.
"""

Rule: TypeAlias = Callable[["Call"], Result]

RULES: Final = RuleTable[Rule]()
"""Rules by operator name, without the namespace ``aten`` and without the overload."""

rule: Final = RULES.rule


class Call:
    """A call of an operator, with its arguments by name.

    A tensor is a `Value`. A size that is not fixed is a `Size`.
    """

    def __init__(self, operator: str, arguments: dict[str, Any], shapes: Sequence[Shape]) -> None:
        """``shapes`` are the shapes of the outputs."""
        self.operator = operator
        self.arguments = arguments
        self.shapes = shapes

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or ``default`` if it is missing or None."""
        found = self.arguments.get(name)
        return default if found is None else found

    def value(self, name: str) -> Value:
        """Return an argument that is a tensor.

        Raises:
            UnknownRowsError: the argument is not a tensor.
        """
        found = self.arguments.get(name)
        if not isinstance(found, Value):
            raise UnknownRowsError(f"has no tensor {name!r}")
        return found

    @property
    def first(self) -> Value:
        """The first argument, which must be a tensor."""
        return self.value(next(iter(self.arguments), ""))

    def tensors(self, *names: str) -> list[Value]:
        """Return all tensors among the arguments with these names, including tensors in lists.

        Without names, return the tensors of all arguments.
        """
        found: list[Value] = []
        for name, argument in self.arguments.items():
            if not names or name in names:
                found += [
                    each
                    for each in (argument if isinstance(argument, list | tuple) else [argument])
                    if isinstance(each, Value)
                ]
        return found

    def check_numbers(self) -> None:
        """Check that no number among the arguments depends on the number of rows.

        Raises:
            MixesRowsError: a number depends on the number of rows.
        """
        for argument in self.arguments.values():
            for each in argument if isinstance(argument, list | tuple) else [argument]:
                if isinstance(each, Size) and each.depends_on_rows:
                    raise MixesRowsError(COUNTS)

    def axes(self, rank: int, name: str = "dim") -> tuple[int, ...]:
        """Return the axes that an argument contains as a number or a list.

        If the argument is missing, return all axes.
        """
        found = self.arguments.get(name)
        if found is None or found == []:
            return tuple(range(rank))
        return tuple(axis_of(int(axis), rank) for axis in (found if isinstance(found, list | tuple) else [found]))

    def axis(self, rank: int, default: int | None = None, name: str = "dim") -> int:
        """Return the axis that an argument contains."""
        found = self.get(name, default)
        if not isinstance(found, int):
            raise UnknownRowsError(f"has no {name!r}")
        return axis_of(found, rank)
