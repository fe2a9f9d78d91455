"""Which model a request is for."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from random import Random

from clockwork.errors import InvalidRequestError

Mix = Callable[[], str]


def chosen(patterns: Sequence[str], models: Sequence[str]) -> list[str]:
    """The models that the patterns name: globs, ``first:N``, ``slice:A:B``; all if there are none.

    Raises:
        InvalidRequestError: a pattern names nothing, or is none.
    """
    if not patterns:
        return list(models)
    names: dict[str, None] = {}
    for pattern in patterns:
        found = _matching(pattern, models)
        if not found:
            some = ", ".join(models[:5])
            raise InvalidRequestError(f"the workload's models {pattern!r} are none of the {len(models)}: {some}, ...")
        names.update(dict.fromkeys(found))
    return list(names)


def _matching(pattern: str, models: Sequence[str]) -> list[str]:
    kind, _, rest = pattern.partition(":")
    try:
        if kind == "first" and rest:
            return list(models[: int(rest)])
        if kind == "slice" and rest:
            begin, _, end = rest.partition(":")
            return list(models[int(begin) : int(end)])
    except ValueError:
        raise InvalidRequestError(f"{pattern!r}: write first:12 or slice:12:48") from None
    return [model for model in models if fnmatchcase(model, pattern)]


def uniform(models: Sequence[str], rng: Random) -> Mix:
    """Each as often."""
    count, draw = len(models), rng.random
    return lambda: models[int(draw() * count)]


def weighted(models: Sequence[str], weights: Sequence[float], rng: Random) -> Mix:
    """Each as often as its weight says."""
    sums = list(accumulate(weights))
    total, last = sums[-1], len(models) - 1
    return lambda: models[min(last, bisect_left(sums, rng.random() * total))]


def zipf(models: Sequence[str], exponent: float, rng: Random) -> Mix:
    """The n-th model in proportion to ``n ** -exponent``."""
    return weighted(models, [(i + 1) ** -exponent for i in range(len(models))], rng)
