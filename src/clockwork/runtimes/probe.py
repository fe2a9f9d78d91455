"""Does the prepared graph compute what the original does, and can its requests be batched?

Rules of the file: a doubt costs speed and never an answer. A model that cannot be tried, because no input that can be
made up suits it, is not batched, and its weights are copied rather than used in place.

Declarations are not enough: many exported models name a free batch dimension and have a Reshape, or a recurrent state,
that fixes it; others compute across the batch. So the graph is analysed first (`clockwork.runtimes.rows`); what that
leaves to be tried says a `clockwork.runtimes.batching.TrialPlan`.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array, dtype_of
from clockwork.messages.tensors import Datatype
from clockwork.runtimes.batching import UNDECLARED, TrialPlan
from clockwork.runtimes.signature import FREE, Port, Signature
from clockwork.runtimes.trial import Run, attempt, is_float, kinds, tried
from clockwork.units import Bytes

SIZES: Final = (16, 64, 224)
"""Tried for dimensions whose size is not known: short texts, and images that survive five times halving."""

ELEMENTS_MAX: Final = 1 << 24
"""No larger inputs are tried."""

ROWS: Final = 4
"""A small batch, as they are common where requests have deadlines."""

DIFFERENCE_MAX: Final = 0.1
"""How far outputs of one graph on two kinds of devices may be from each other, as a part of their norm."""

UNTRIED: Final = "no input that was made up to try it suits it"

_FLOATS: Final = (Datatype.FP64, Datatype.FP32, Datatype.FP16, Datatype.BF16)


class Verdict(Struct, frozen=True):
    """What the trials have shown.

    ``in_place``: weights may be used where they lie. ``unbatched``: why rows of several requests may not go together;
    empty if they may. ``packed``: sessions pack weights. ``session_bytes``: the heap that a session takes, beside
    weights in place.
    """

    in_place: bool
    unbatched: str
    packed: bool = True
    session_bytes: Bytes = 0


def try_model(ports: Signature, original: Run, prepared: Run, plan: TrialPlan) -> Verdict:
    """Try both graphs on made-up inputs, and the prepared one on batches if the plan leaves that open."""
    refused = plan.refused if ports.may_batch else UNDECLARED
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        first = _feed(ports, size, seed=1)
        if first is None:
            break
        expected = attempt(original, first)
        if expected is None:
            continue
        found = attempt(prepared, first)
        if not refused:
            rows = chain([(first, found)], ((row, None) for row in _rows(ports, size, plan)))
            refused = tried(prepared, rows, plan.thorough, plan.coarse)
        return Verdict(_same(expected, found), refused)
    return Verdict(in_place=False, unbatched=refused or UNTRIED)


def example_inputs(ports: Signature, run: Run) -> list[dict[str, Array]]:
    """Inputs that the model takes: one row, and `ROWS` rows where it declares that it takes several; or none."""
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        row = _feed(ports, size, seed=1)
        if row is None:
            break
        if attempt(run, row) is None:
            continue
        rows = {name: np.concatenate([array] * ROWS) for name, array in row.items()} if ports.may_batch else row
        return [row, rows] if ports.may_batch and attempt(run, rows) is not None else [row]
    return []


def _has_free(ports: Signature) -> bool:
    return any(FREE in port.info.shape[int(ports.may_batch) :] for port in ports.inputs)


def _rows(ports: Signature, size: int, plan: TrialPlan) -> Iterator[Mapping[str, Array]]:
    """Rows to try after the first, which is the one of seed 1."""
    for seed, kind in enumerate(kinds(plan.thorough, plan.coarse), 2):
        row = _feed(ports, size, seed, kind)
        assert row is not None  # it is as large as the first
        yield row


def _feed(ports: Signature, size: int, seed: int, kind: str = "fractions") -> dict[str, Array] | None:
    """One row of inputs; None if it would be too large."""
    chance = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for port in ports.inputs:
        shape = [size if dim == FREE else dim for dim in port.info.shape]
        if ports.may_batch:
            shape[0] = 1
        if np.prod(shape, dtype=float) > ELEMENTS_MAX:
            return None
        feed[port.info.name] = made(port, tuple(shape), chance, kind)
    return feed


def made(port: Port, shape: tuple[int, ...], chance: np.random.Generator, kind: str = "fractions") -> Array:
    """Elements of one of `trial.kinds`.

    Of fractions, whole numbers are zeros and ones: as indices these are in range of every table, as texts short.
    """
    if port.info.datatype == Datatype.BYTES:
        least, most = _TEXTS.get(kind, (0, 2))
        return chance.integers(least, most, shape).astype(str).astype(object)
    dtype = dtype_of(port.info.datatype)
    if port.info.datatype in _FLOATS:
        factor = _FACTORS.get(kind)
        if factor is None:
            return np.asarray(chance.random(shape, dtype=np.float32)).astype(dtype)
        return np.asarray(chance.standard_normal(shape, dtype=np.float32) * np.float32(factor)).astype(dtype)
    least, most = _NUMBERS.get(kind, (0, 2))
    if dtype.kind == "b":
        least, most = 0, 2
    elif dtype.kind == "u" or dtype.itemsize == 1:
        least, most = max(least, 0), min(most, 100)
    return np.asarray(chance.integers(least, max(most, least + 1), shape)).astype(dtype)


_FACTORS: Final = {"signed": 4.0, "zeros": 0.0, "large": 1e3, "small": 1e-3, "negative": -30.0}
"""What normally distributed floats are multiplied with."""

_NUMBERS: Final = {"signed": (0, 10), "zeros": (0, 1), "large": (0, 1000), "negative": (-10, 1)}
_TEXTS: Final = {"signed": (0, 1 << 20), "zeros": (0, 1), "large": (1 << 40, 1 << 60)}
"""Ranges of whole numbers, and of those whose digits are texts."""


def _same(expected: list[Array], found: list[Array] | None) -> bool:
    """Bit for bit, as the same kernels on the same weights compute. Without a fraction among them, it proves little."""
    if found is None or not any(is_float(it) and it.size for it in expected):
        return False
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(expected, found, strict=True))


def close(wanted: Array, found: Array) -> bool:
    """Whether two arrays of one shape differ by no more than kernels do that add in another order."""
    if wanted.shape != found.shape:
        return False
    if not is_float(wanted):
        return True  # a class or a token may tip over for a last bit
    expected: Any = wanted.astype(np.float64)
    difference: Any = np.where(np.isfinite(expected), found.astype(np.float64) - expected, 0.0)
    norm = np.linalg.norm(np.where(np.isfinite(expected), expected, 0.0))
    return bool(np.linalg.norm(difference) <= DIFFERENCE_MAX * norm)
