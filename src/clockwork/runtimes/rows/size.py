"""Represents sizes that contain unknowns, as polynomials with integer coefficients.

The unknown `ROWS` is the number of rows of the batch. Any other unknown is a size that all requests of a batch have in
common. Such an unknown is a free dimension of an input, or a size that no rule could compute. If the name of an unknown
begins with `ROWS`, the unknown depends on the number of rows in an unknown way.
"""

import hashlib
from collections.abc import Iterable
from functools import reduce
from typing import Final, TypeAlias

ROWS: Final = "#"
"""Name of the unknown for the number of rows. Names that come from a model never begin with this character."""

OPAQUE: Final = "?"
"""Prefix of the names of sizes that no rule could compute."""

MAX_NAME: Final = 120
"""Longest name of an unknown, in characters. A longer name is replaced with a digest."""

Terms: TypeAlias = dict[tuple[str, ...], int]


class Size:
    """An immutable polynomial. Polynomials with the same terms are equal."""

    __slots__ = ("terms",)

    def __init__(self, terms: Terms) -> None:
        """``terms`` maps each product of unknowns, which is a sorted tuple of names, to its coefficient."""
        self.terms: tuple[tuple[tuple[str, ...], int], ...] = tuple(sorted((k, v) for k, v in terms.items() if v))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __add__(self, other: "Size") -> "Size":
        terms = dict(self.terms)
        for names, factor in other.terms:
            terms[names] = terms.get(names, 0) + factor
        return Size(terms)

    def __sub__(self, other: "Size") -> "Size":
        return self + other * number(-1)

    def __mul__(self, other: "Size") -> "Size":
        terms: Terms = {}
        for names, factor in self.terms:
            for more, times in other.terms:
                key = tuple(sorted(names + more))
                terms[key] = terms.get(key, 0) + factor * times
        return Size(terms)

    def __repr__(self) -> str:
        if not self.terms:
            return "0"
        return "+".join(
            "*".join([*([str(factor)] if factor != 1 or not names else []), *names]) for names, factor in self.terms
        )

    @property
    def value(self) -> int | None:
        """Value of a size without unknowns, or None if the size contains unknowns."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    @property
    def depends_on_rows(self) -> bool:
        """Whether the size depends on the number of rows."""
        return any(name.startswith(ROWS) for names, _ in self.terms for name in names)

    @property
    def is_opaque(self) -> bool:
        """Whether the size is a single unknown that no rule could compute."""
        return (
            len(self.terms) == 1
            and self.terms[0][1] == 1
            and len(self.terms[0][0]) == 1
            and self.terms[0][0][0][0] == OPAQUE
        )

    def divided(self, other: "Size") -> "Size | None":
        """Return the quotient, or None if the division leaves a remainder. The divisor must have a single term."""
        if len(other.terms) != 1:
            return ONE if self == other and self.terms else None
        ((divisor, by),) = other.terms
        terms: Terms = {}
        for names, factor in self.terms:
            left = list(names)
            for name in divisor:
                if name not in left:
                    return None
                left.remove(name)
            if factor % by:
                return None
            terms[tuple(left)] = factor // by
        return Size(terms)

    def exceeds(self, other: "Size") -> bool:
        """Return whether this size is certainly larger than ``other``, whatever values the unknowns have."""
        difference = dict((self - other).terms)
        constant = difference.pop((), 0)
        rows = difference.get((ROWS,), 0)  # the number of rows is at least one
        return all(factor > 0 for factor in difference.values()) and constant + max(rows, 0) > 0


def number(value: int) -> Size:
    """Return a known size."""
    return Size({(): value})


def unknown(name: str) -> Size:
    """Return an unknown size with this name, such as a free dimension of an input."""
    return Size({(name,): 1})


def opaque(text: str, depends: bool = False) -> Size:
    """Return an unknown with ``text`` as a part of its name. Equal texts give equal unknowns.

    ``depends`` states whether the unknown depends on the number of rows.
    """
    if len(text) > MAX_NAME:
        text = hashlib.sha256(text.encode()).hexdigest()
    return unknown(f"{ROWS if depends else ''}{OPAQUE}{text}")


def at_most(limit: Size, size: Size) -> Size:
    """Return the smaller of two sizes."""
    if limit == size or limit.exceeds(size):
        return size
    return (
        limit
        if size.exceeds(limit)
        else opaque(f"min({limit!r},{size!r})", limit.depends_on_rows or size.depends_on_rows)
    )


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of the sizes."""
    return reduce(Size.__mul__, sizes, ONE)


ONE: Final = number(1)
N: Final = unknown(ROWS)
"""The number of rows of the batch."""
