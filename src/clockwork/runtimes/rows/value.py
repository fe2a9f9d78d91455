"""Defines the known properties of one tensor (`Value`) and the result for a whole model (`Proof`)."""

from typing import Any, Final, TypeAlias

from msgspec import Struct

from clockwork.runtimes.rows.size import ONE, N, Size, number, product

Shape: TypeAlias = tuple[Size, ...]

ACROSS: Final = "computes across rows"
COUNTS: Final = "computes with the number of rows in the batch"


class RowsError(Exception):
    """Raised if the analysis cannot follow the rows through an operator.

    The error text continues a sentence that begins with the operator's name.
    """


class MixesRowsError(RowsError):
    """Raised if the operator computes across rows."""


class UnknownRowsError(RowsError):
    """Raised if there is no rule for the operator, or if its rule does not cover this case."""


class Problem(Struct, frozen=True):
    """The reason why nothing is known about a tensor.

    If ``mixes`` is true, rows are mixed. If ``mixes`` is false, it is unknown whether rows are mixed.
    """

    mixes: bool
    reason: str


class Value(Struct, frozen=True):
    """The known properties of one tensor.

    ``batch_axis`` is the axis along which the rows lie, or None for a tensor that is the same in every batch. The size
    of that axis is ``outer * N * inner``: element e of the axis belongs to row ``(e // inner) % N``. For a batch of
    images, ``outer`` and ``inner`` are 1. After `moves.reshaped`, they may be larger. No other size of the shape
    depends on N.

    ``content`` contains the elements of a small tensor, if the elements are known. The content is an array of Python
    numbers. An element that was computed from shapes is a `Size`.
    """

    shape: Shape
    batch_axis: int | None = None
    inner: Size = ONE
    content: Any = None
    problem: Problem | None = None

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def depends_on_batch_size(self) -> bool:
        """Whether a known element depends on the number of rows."""
        return self.content is not None and any(
            isinstance(element, Size) and element.depends_on_rows for element in self.content.flat
        )

    @property
    def has_one_element_per_row(self) -> bool:
        """Whether the batch axis has exactly one element for each row."""
        return self.batch_axis is not None and self.shape[self.batch_axis] == N

    @property
    def axis_from_end(self) -> int:
        """The batch axis, counted from the end, so that the last axis is 0. The tensor must have a batch axis."""
        assert self.batch_axis is not None
        return self.rank - 1 - self.batch_axis

    @property
    def elements(self) -> Size:
        """The number of elements."""
        return product(self.shape)


class Proof(Struct, frozen=True):
    """Result of the analysis of a whole graph.

    If ``proved`` is true, row i of each output depends only on row i of the inputs. If ``mixes`` is true, a row of an
    output also depends on other rows or on their number. If ``proved`` and ``mixes`` are false, nothing is known.
    ``reason`` explains why there is no proof, with the name of the operator.
    """

    proved: bool
    mixes: bool = False
    reason: str = ""


PROVED: Final = Proof(proved=True)


def unknown_value(reason: str, mixes: bool) -> Value:
    """Return a tensor about which nothing is known."""
    return Value((), problem=Problem(mixes, reason))


def constant(*shape: int) -> Value:
    """Return a tensor of this shape that is the same in every batch."""
    return Value(tuple(number(dim) for dim in shape))


def across_error(value: Value) -> MixesRowsError:
    """Return the error of an operator that computes along the batch axis."""
    return MixesRowsError(f"{ACROSS} (axis {value.batch_axis})")


def proof_of(outputs: dict[str, Value]) -> Proof:
    """Return the proof of a graph. ``outputs`` maps the name of each output to its value."""
    problems = [tensor.problem for tensor in outputs.values() if tensor.problem is not None]
    for problem in sorted(problems, key=lambda problem: not problem.mixes):
        return Proof(proved=False, mixes=problem.mixes, reason=problem.reason)
    for name, value in outputs.items():
        axis = value.batch_axis
        if axis is None:
            return Proof(False, True, f"output {name!r} does not depend on the rows of the input")
        if axis != 0 or not value.has_one_element_per_row:
            count = repr(value.shape[axis]).replace("#", "N")
            return Proof(False, True, f"output {name!r} has its rows along axis {axis}, {count} of them")
    return PROVED
