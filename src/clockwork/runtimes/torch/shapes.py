"""Checks which combinations of input shapes a program accepts.

A program is valid only for the shapes for which it was exported. For different shapes, the program may compute
meaningless results without an error. Shapes are therefore checked before every inference. This check costs one table
lookup.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from clockwork.errors import InvalidRequestError

Shape: TypeAlias = tuple[int, ...]

MAX_KNOWN_SHAPES: Final = 1024
"""Limit of the number of combinations of shapes that are remembered as accepted."""

_MIN_CHECKED_LOWER: Final = 2
"""A lower bound up to this number is ignored, because PyTorch records 2 for a dimension without a lower bound.
"""


class Range:
    """The allowed sizes of a symbol. A bound of None means that there is no bound."""

    def __init__(self, lower: int | None, upper: int | None) -> None:
        self.lower = lower if lower is not None and lower > _MIN_CHECKED_LOWER else 0
        self.upper = upper

    def __contains__(self, size: int) -> bool:
        return size >= self.lower and (self.upper is None or size <= self.upper)

    def __str__(self) -> str:
        return f"{self.lower} or more" if self.upper is None else f"{self.lower} to {self.upper}"


class Shapes:
    """The dimensions of all inputs. A dimension is a number, a symbol, or an expression of symbols."""

    def __init__(self, names: Sequence[str], dims: Sequence[tuple[Any, ...]], ranges: Mapping[str, Range]) -> None:
        """``dims`` contains an int or a sympy expression for each dimension of each input."""
        self._names = names
        self._dims = dims
        self._ranges = ranges
        self._known: dict[tuple[Shape, ...], None] = {}

    def check(self, shapes: tuple[Shape, ...]) -> None:
        """Check that the program accepts these shapes.

        Raises:
            InvalidRequestError: the program does not accept these shapes.
        """
        if shapes in self._known:
            return
        sizes = self._bound(shapes)
        for name, dims, shape in zip(self._names, self._dims, shapes, strict=True):
            for at, (dim, size) in enumerate(zip(dims, shape, strict=True)):
                wanted = dim if isinstance(dim, int) else int(dim.subs(sizes))
                if wanted != size:
                    raise InvalidRequestError(
                        f"dimension {at} of input {name!r} is {size}; with the sizes of the other inputs it must be "
                        f"{wanted} ({dim})"
                    )
        if len(self._known) < MAX_KNOWN_SHAPES:
            self._known[shapes] = None

    def _bound(self, shapes: tuple[Shape, ...]) -> dict[Any, int]:
        """Return the size of each symbol.

        The first dimension that is only the symbol, and not an expression, determines the symbol's size.
        """
        sizes: dict[Any, int] = {}
        for name, dims, shape in zip(self._names, self._dims, shapes, strict=True):
            if len(dims) != len(shape):
                raise InvalidRequestError(f"input {name!r} has {len(shape)} dimensions; the model takes {len(dims)}")
            for dim, size in zip(dims, shape, strict=True):
                if isinstance(dim, int) or not dim.is_Symbol or dim in sizes:
                    continue
                allowed = self._ranges.get(str(dim))
                if allowed is not None and size not in allowed:
                    raise InvalidRequestError(
                        f"input {name!r} has a dimension of {size}; the model was exported for {allowed}"
                    )
                sizes[dim] = size
        return sizes
