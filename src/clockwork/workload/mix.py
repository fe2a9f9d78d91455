"""Chooses the model of each request."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from random import Random

from clockwork.errors import InvalidRequestError

Mix = Callable[[], str]


def chosen(patterns: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the models that match the patterns. Without a pattern, return all models.

    A pattern is a name, a glob, ``first:N`` or ``slice:A:B``.

    Raises:
        InvalidRequestError: a pattern is malformed or matches no model.
    """
    if not patterns:
        return list(models)
    names: dict[str, None] = {}
    for pattern in patterns:
        found = _matching(pattern, models)
        if not found:
            some = ", ".join(models[:5])
            raise InvalidRequestError(f"pattern {pattern!r} matches none of the {len(models)} models: {some}, ...")
        names.update(dict.fromkeys(found))
    return list(names)


def _matching(pattern: str, models: Sequence[str]) -> list[str]:
    if pattern in models:
        return [pattern]
    kind, _, rest = pattern.partition(":")
    try:
        if kind == "first" and rest:
            return list(models[: int(rest)])
        if kind == "slice" and rest:
            begin, _, end = rest.partition(":")
            return list(models[int(begin) : int(end)])
    except ValueError:
        raise InvalidRequestError(f"invalid models pattern {pattern!r}; examples: first:12, slice:12:48") from None
    return [model for model in models if fnmatchcase(model, pattern)]


def uniform(models: Sequence[str], rng: Random) -> Mix:
    """Return a mix that chooses each model with the same probability."""
    count, draw = len(models), rng.random
    return lambda: models[int(draw() * count)]


def weighted(models: Sequence[str], weights: Sequence[float], rng: Random) -> Mix:
    """Return a mix that chooses models in proportion to their weights."""
    sums = list(accumulate(weights))
    total, last = sums[-1], len(models) - 1
    return lambda: models[min(last, bisect_left(sums, rng.random() * total))]


def zipf(models: Sequence[str], exponent: float, rng: Random) -> Mix:
    """Return a mix that chooses the n-th model in proportion to ``n ** -exponent``."""
    return weighted(models, [(i + 1) ** -exponent for i in range(len(models))], rng)
