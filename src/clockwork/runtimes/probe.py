"""Tries a model on random inputs. The trial decides whether the model can be batched and shares its weights.

The prepared graph uses its weights in place only if it computes the same outputs as the original graph. In doubt, the
slower way is chosen, so that no response is wrong. A model that accepts none of the random inputs is not batched, and
its sessions copy the weights.

The declared shapes do not prove that a model can be batched. Many exported models declare a free batch dimension but
contain a Reshape or a recurrent state that fixes its size. Other models compute across the batch. So the graph is
analysed first (`clockwork.runtimes.rows`). A `clockwork.runtimes.batching.TrialPlan` then states which trials are
needed.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from clockwork.arrays import Array, dtype_of
from clockwork.clock import MonotonicClock
from clockwork.messages.results import TrialRun
from clockwork.messages.tensors import Datatype
from clockwork.runtimes.batching import UNDECLARED, TrialPlan
from clockwork.runtimes.signature import FREE, Port, Signature
from clockwork.runtimes.trial import Run, attempt, is_float, row_kinds, why_not_batchable
from clockwork.units import Bytes

SIZES: Final = (16, 64, 224)
"""Sizes to try for free dimensions. They suit short texts, and images that can be halved five times."""

MAX_ELEMENTS: Final = 1 << 24
"""Number of elements of the largest input that is tried."""

ROWS: Final = 4
"""Number of rows of an example batch. Batches are small if requests have deadlines."""

MAX_DIFFERENCE: Final = 0.1
"""Largest difference between the outputs of one graph on two kinds of devices, as a fraction of the output's norm."""

UNTRIED: Final = "it accepts none of the random inputs made to try it"

_FLOATS: Final = (Datatype.FP64, Datatype.FP32, Datatype.FP16, Datatype.BF16)


class Verdict(Struct, frozen=True):
    """Results of the trials.

    - ``in_place``: sessions may use the weights without a copy
    - ``unbatched``: the reason why requests cannot share a batch; empty if they can
    - ``packed``: sessions pack weights
    - ``session_bytes``: the heap memory that a session takes, without weights that are used in place
    - ``trial``: the first execution of the prepared graph; None if it accepted none of the random inputs
    """

    in_place: bool
    unbatched: str
    packed: bool = True
    session_bytes: Bytes = 0
    trial: TrialRun | None = None


_clock: Final = MonotonicClock()


def try_model(ports: Signature, original: Run, prepared: Run, plan: TrialPlan) -> Verdict:
    """Try both graphs on random inputs. Also try the prepared graph on batches, unless the plan forbids batching."""
    refused = plan.refused if ports.may_batch else UNDECLARED
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        first = _feed(ports, size, seed=1)
        if first is None:
            break
        expected = attempt(original, first)
        if expected is None:
            continue
        begin = _clock.now()
        found = attempt(prepared, first)
        trial = TrialRun(_clock.now() - begin, sum(array.size for array in first.values()))
        if not refused:
            rows = chain([(first, found)], ((row, None) for row in _rows(ports, size, plan)))
            refused = why_not_batchable(prepared, rows, plan.thorough, plan.coarse)
        return Verdict(_identical(expected, found), refused, trial=trial)
    return Verdict(in_place=False, unbatched=refused or UNTRIED)


def example_inputs(ports: Signature, run: Run) -> list[dict[str, Array]]:
    """Return inputs that the model accepts: one row and, if it accepts batches, `ROWS` rows.

    The list is empty if the model accepts none of the random inputs.
    """
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        row = _feed(ports, size, seed=1)
        if row is None:
            break
        if attempt(run, row) is None:
            continue
        rows = {name: np.concatenate([array] * ROWS) for name, array in row.items()} if ports.may_batch else row
        return [row, rows] if ports.may_batch and attempt(run, rows) is not None else [row]
    return []


def observed(ports: Signature, run: Run) -> Signature:
    """Return the signature after correcting the shapes of outputs from a run of the model.

    A graph may declare no shape for an output, or a wrong one. A dimension whose declared size is wrong becomes free.
    If the number of dimensions is wrong, all dimensions become free. If the model accepts no random input, the declared
    shapes stay.
    """
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        row = _feed(ports, size, seed=1)
        outputs = None if row is None else attempt(run, row)
        if outputs is not None:
            pairs = zip(ports.outputs, outputs, strict=True)
            return Signature(ports.inputs, tuple(_corrected(port, array.shape) for port, array in pairs))
    return ports


def _corrected(port: Port, found: tuple[int, ...]) -> Port:
    declared = port.info.shape
    if len(declared) != len(found):
        return Port(replace(port.info, shape=(FREE,) * len(found)), ("",) * len(found))
    shape = tuple(dim if dim in (FREE, size) else FREE for dim, size in zip(declared, found, strict=True))
    return port if shape == declared else Port(replace(port.info, shape=shape), port.symbols)


def _has_free(ports: Signature) -> bool:
    return any(FREE in port.info.shape[int(ports.may_batch) :] for port in ports.inputs)


def _rows(ports: Signature, size: int, plan: TrialPlan) -> Iterator[Mapping[str, Array]]:
    """Generate the rows to try after the first, which has seed 1."""
    for seed, kind in enumerate(row_kinds(plan.thorough, plan.coarse), 2):
        row = _feed(ports, size, seed, kind)
        assert row is not None  # it is as large as the first row
        yield row


def _feed(ports: Signature, size: int, seed: int, kind: str = "fractions") -> dict[str, Array] | None:
    """Return one row of random inputs, or None if an input would be too large."""
    generator = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for port in ports.inputs:
        shape = [size if dim == FREE else dim for dim in port.info.shape]
        if ports.may_batch:
            shape[0] = 1
        if np.prod(shape, dtype=float) > MAX_ELEMENTS:
            return None
        feed[port.info.name] = random_elements(port, tuple(shape), generator, kind)
    return feed


def random_elements(
    port: Port, shape: tuple[int, ...], generator: np.random.Generator, kind: str = "fractions"
) -> Array:
    """Return random elements of one of `trial.row_kinds`.

    For the kind "fractions", integers are 0 or 1, because these are valid indices into every table. Strings are short.
    """
    if port.info.datatype == Datatype.BYTES:
        low, high = _STRINGS.get(kind, (0, 2))
        return generator.integers(low, high, shape).astype(str).astype(object)
    dtype = dtype_of(port.info.datatype)
    if port.info.datatype in _FLOATS:
        factor = _FACTORS.get(kind)
        if factor is None:
            return np.asarray(generator.random(shape, dtype=np.float32)).astype(dtype)
        return np.asarray(generator.standard_normal(shape, dtype=np.float32) * np.float32(factor)).astype(dtype)
    low, high = _NUMBERS.get(kind, (0, 2))
    if dtype.kind == "b":
        low, high = 0, 2
    elif dtype.kind == "u" or dtype.itemsize == 1:
        low, high = max(low, 0), min(high, 100)
    return np.asarray(generator.integers(low, max(high, low + 1), shape)).astype(dtype)


_FACTORS: Final = {"signed": 4.0, "zeros": 0.0, "large": 1e3, "small": 1e-3, "negative": -30.0}
"""For each kind of row, the factor by which normally distributed floats are multiplied."""

_NUMBERS: Final = {"signed": (0, 10), "zeros": (0, 1), "large": (0, 1000), "negative": (-10, 1)}
_STRINGS: Final = {"signed": (0, 1 << 20), "zeros": (0, 1), "large": (1 << 40, 1 << 60)}
"""For each kind of row, the range of its integers. The digits of these integers also make its strings."""


def _identical(expected: list[Array], found: list[Array] | None) -> bool:
    """Return whether two lists of arrays are equal bit for bit.

    The same kernels on the same weights give the same bits. Integers alone prove too little, so they do not suffice.
    """
    if found is None or not any(is_float(array) and array.size for array in expected):
        return False
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(expected, found, strict=True))


def is_close(wanted: Array, found: Array) -> bool:
    """Return whether two arrays differ no more than the results of kernels that add in a different order."""
    if wanted.shape != found.shape:
        return False
    if not is_float(wanted):
        return True  # one different bit can change a class or a token
    expected: Any = wanted.astype(np.float64)
    difference: Any = np.where(np.isfinite(expected), found.astype(np.float64) - expected, 0.0)
    norm = np.linalg.norm(np.where(np.isfinite(expected), expected, 0.0))
    return bool(np.linalg.norm(difference) <= MAX_DIFFERENCE * norm)
