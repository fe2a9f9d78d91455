"""Does the prepared graph compute what the original does, and can its requests be batched? Answered by trying.

Rules of the file: a doubt costs speed and never an answer. A model that cannot be tried, because no input that we can
think of suits it, is batched if it declares that it can be, and its weights are copied rather than used in place.

Declarations are not enough: many exported models name a free batch dimension and have a Reshape, or a recurrent state,
that fixes it; others compute across the batch. Two different rows, alone and together, tell.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array, dtype_of
from clockwork.errors import ClockworkError
from clockwork.messages.tensors import Datatype
from clockwork.runtimes.signature import FREE, Port, Signature
from clockwork.units import Bytes

Run: TypeAlias = Callable[[Mapping[str, Array]], list[Array]]
"""Runs one graph: inputs by name to outputs in order."""

SIZES: Final = (16, 64, 224)
"""Tried for dimensions whose size is not known: short texts, and images that survive five times halving."""

ELEMENTS_MAX: Final = 1 << 24
"""No larger inputs are tried."""

ROWS: Final = 4
"""A small batch, as they are common where requests have deadlines."""

DIFFERENCE_MAX: Final = 0.1
"""How far a batch's outputs may be from the single ones, as a part of their norm.

Other kernels are chosen for other batch sizes, which differ in the last bits; dynamically quantised models choose their
scale for the whole batch, which costs some hundredths. Computing across the batch costs more.
"""


class Verdict(Struct, frozen=True):
    """``in_place``: weights may be used where they lie. ``batchable``: rows of several requests may go together.

    ``packed``: sessions pack weights. ``session_bytes``: the heap that a session takes, beside weights in place.
    """

    in_place: bool
    batchable: bool
    packed: bool = True
    session_bytes: Bytes = 0


def examine(ports: Signature, original: Run, prepared: Run) -> Verdict:
    """Try both graphs on made-up inputs."""
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        first = _feed(ports, size, seed=1)
        if first is None:
            break
        expected = _tried(original, first)
        if expected is None:
            continue
        second = _feed(ports, size, seed=2)
        assert second is not None  # of the same size
        return Verdict(
            _same(expected, _tried(prepared, first)),
            ports.may_batch and _batches(original, first, second, expected),
        )
    return Verdict(in_place=False, batchable=ports.may_batch)


def feeds(ports: Signature, run: Run) -> list[dict[str, Array]]:
    """Inputs that the model takes: one row, and `ROWS` rows where it declares that it takes several; or none."""
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        row = _feed(ports, size, seed=1)
        if row is None:
            break
        if _tried(run, row) is None:
            continue
        rows = {name: np.concatenate([array] * ROWS) for name, array in row.items()} if ports.may_batch else row
        return [row, rows] if ports.may_batch and _tried(run, rows) is not None else [row]
    return []


def _has_free(ports: Signature) -> bool:
    return any(FREE in port.info.shape[int(ports.may_batch) :] for port in ports.inputs)


def _feed(ports: Signature, size: int, seed: int) -> dict[str, Array] | None:
    """One row of inputs; None if it would be too large."""
    chance = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for port in ports.inputs:
        shape = [size if dim == FREE else dim for dim in port.info.shape]
        if ports.may_batch:
            shape[0] = 1
        if np.prod(shape, dtype=float) > ELEMENTS_MAX:
            return None
        feed[port.info.name] = made(port, tuple(shape), chance)
    return feed


def made(port: Port, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    """Fractions, or zeros and ones: as indices they are in range of every table, and as texts they are short."""
    if port.info.datatype == Datatype.BYTES:
        return chance.integers(0, 2, shape).astype(str).astype(object)
    dtype = dtype_of(port.info.datatype)
    if port.info.datatype in (Datatype.FP64, Datatype.FP32, Datatype.FP16, Datatype.BF16):
        return np.asarray(chance.random(shape, dtype=np.float32)).astype(dtype)
    return np.asarray(chance.integers(0, 2, shape)).astype(dtype)


def _tried(run: Run, feed: Mapping[str, Array]) -> list[Array] | None:
    try:
        return run(feed)
    except ClockworkError:
        return None


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.isbuiltin != 1


def _same(expected: list[Array], found: list[Array] | None) -> bool:
    """Bit for bit, as the same kernels on the same weights compute. Without a fraction among them, it proves little."""
    if found is None or not any(_is_float(it) and it.size for it in expected):
        return False
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(expected, found, strict=True))


def _batches(run: Run, first: dict[str, Array], second: dict[str, Array], expected: list[Array]) -> bool:
    alone = _tried(run, second)
    together = _tried(run, {name: np.concatenate([row, second[name]]) for name, row in first.items()})
    if alone is None or together is None:
        return False
    return all(map(_agree, expected, alone, together))


def _agree(first: Array, second: Array, together: Array) -> bool:
    if first.shape != second.shape or first.shape[:1] != (1,) or together.shape != (2, *first.shape[1:]):
        return False
    return close(np.concatenate([first, second]), together)


def close(wanted: Array, found: Array) -> bool:
    """Whether two arrays of one shape differ by no more than kernels do that add in another order."""
    if wanted.shape != found.shape:
        return False
    if not _is_float(wanted):
        return True  # a class or a token may tip over for a last bit
    expected: Any = wanted.astype(np.float64)
    difference: Any = np.where(np.isfinite(expected), found.astype(np.float64) - expected, 0.0)
    norm = np.linalg.norm(np.where(np.isfinite(expected), expected, 0.0))
    return bool(np.linalg.norm(difference) <= DIFFERENCE_MAX * norm)
