"""Which shapes of inputs go together.

Rules of the file: a program holds for the shapes that it was exported for, and for no others: executed with others, it
may compute something all the same. So they are checked before every inference, which costs a look into a table.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from clockwork.errors import InvalidRequestError

Shape: TypeAlias = tuple[int, ...]

KNOWN_MAX: Final = 1024
"""So many combinations of shapes are remembered."""

_LOWER_MIN: Final = 2
"""PyTorch notes 2 as the least size of a dimension of which nothing was said, and checks no lower bound up to it."""


class Range:
    """The sizes that a symbol may have; None: no bound."""

    def __init__(self, lower: int | None, upper: int | None) -> None:
        self.lower = lower if lower is not None and lower > _LOWER_MIN else 0
        self.upper = upper

    def __contains__(self, size: int) -> bool:
        return size >= self.lower and (self.upper is None or size <= self.upper)

    def __str__(self) -> str:
        return f"{self.lower} and more" if self.upper is None else f"{self.lower} to {self.upper}"


class Shapes:
    """The dimensions of all inputs: numbers, symbols, and expressions of symbols."""

    def __init__(self, names: Sequence[str], dims: Sequence[tuple[Any, ...]], ranges: Mapping[str, Range]) -> None:
        """``dims``: for each input an int, or an expression of sympy, for each of its dimensions."""
        self._names = names
        self._dims = dims
        self._ranges = ranges
        self._known: dict[tuple[Shape, ...], None] = {}

    def check(self, shapes: tuple[Shape, ...]) -> None:
        """Whether an execution may be asked for these shapes.

        Raises:
            InvalidRequestError: not of these.
        """
        if shapes in self._known:
            return
        sizes = self._bound(shapes)
        for name, dims, shape in zip(self._names, self._dims, shapes, strict=True):
            for at, (dim, size) in enumerate(zip(dims, shape, strict=True)):
                wanted = dim if isinstance(dim, int) else int(dim.subs(sizes))
                if wanted != size:
                    raise InvalidRequestError(
                        f"dimension {at} of input {name!r} is {size}, but with the other inputs' sizes {wanted} is "
                        f"expected ({dim})"
                    )
        if len(self._known) < KNOWN_MAX:
            self._known[shapes] = None

    def _bound(self, shapes: tuple[Shape, ...]) -> dict[Any, int]:
        """The size of each symbol: of the first dimension that is nothing but the symbol."""
        sizes: dict[Any, int] = {}
        for name, dims, shape in zip(self._names, self._dims, shapes, strict=True):
            if len(dims) != len(shape):
                raise InvalidRequestError(f"input {name!r} has {len(dims)} dimensions; {len(shape)} were sent")
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
