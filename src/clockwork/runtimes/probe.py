"""Tries a model on random inputs.

The trial decides whether the model can be batched, and whether its sessions can share the weights.

The prepared graph uses its weights in place only if it computes the same outputs as the original graph. In case of
doubt, Clockwork copies the weights, so that no response is wrong. A model that accepts none of the random inputs is not
batched, and its sessions copy the weights.

The declared shapes do not prove that a model can be batched. Many exported models declare a free batch dimension, but a
Reshape or a recurrent state fixes the dimension's size. Other models compute across the batch. So the graph is analysed
first (`clockwork.runtimes.rows`). A `clockwork.runtimes.batching.TrialPlan` then states which trials are needed.

The inputs are random, with free dimensions of a few sizes. If the model accepts none of these sizes, the shapes and the
elements of its example (`clockwork.runtimes.examples`) are tried.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from clockwork.arrays import Array
from clockwork.clock import MonotonicClock
from clockwork.messages.results import ExampleInputs, TrialRun
from clockwork.runtimes.batching import UNDECLARED, TrialPlan
from clockwork.runtimes.examples import MAX_ELEMENTS, Example, example_feed
from clockwork.runtimes.given import Shape
from clockwork.runtimes.random_elements import random_elements
from clockwork.runtimes.signature import FREE, Port, Signature
from clockwork.runtimes.trial import Feed, Run, attempt, is_float, row_kinds, why_not_batchable
from clockwork.units import Bytes

SIZES: Final = (16, 64, 224)
"""Sizes to try for free dimensions. These sizes suit short texts, and images that can be halved five times."""

ROWS: Final = 4
"""Number of rows of an example batch. Batches are small if requests have deadlines."""

MAX_DIFFERENCE: Final = 0.1
"""Largest accepted difference between the outputs of a graph on two kinds of devices, as a fraction of the output's
norm.
"""

UNTRIED: Final = "it accepts none of the random inputs made to try it"

NO_EXAMPLE: Final = Example(ExampleInputs())
"""The example of a model for which no example was searched."""


class Verdict(Struct, frozen=True):
    """Results of the trials.

    - ``in_place``: sessions may use the weights without a copy
    - ``unbatched``: the reason why requests cannot share a batch; empty if they can
    - ``packed``: sessions pack weights
    - ``session_bytes``: the heap memory that a session takes, without weights that are used in place
    - ``trial``: the first execution of the prepared graph; None if the graph accepted none of the random inputs
    - ``example``: the model's example; ``random_example`` states whether its elements are random
    """

    in_place: bool
    unbatched: str
    packed: bool = True
    session_bytes: Bytes = 0
    trial: TrialRun | None = None
    example: ExampleInputs | None = None
    random_example: bool = False


_clock: Final = MonotonicClock()


def try_model(
    ports: Signature, original: Run, prepared: Run, plan: TrialPlan, example: Example = NO_EXAMPLE
) -> Verdict:
    """Try the original graph and the prepared graph on random inputs.

    Also try the prepared graph on batches, unless the plan forbids batching.
    """
    refused = plan.refused if ports.may_batch else UNDECLARED
    for shapes, first in _first_rows(ports, example):
        expected = attempt(original, first)
        if expected is None:
            continue
        begin = _clock.now()
        found = attempt(prepared, first)
        trial = TrialRun(_clock.now() - begin, sum(array.size for array in first.values()))
        if not refused:
            rows = chain([(first, found)], ((row, None) for row in _rows(ports, shapes, plan)))
            refused = why_not_batchable(prepared, rows, plan.thorough, plan.coarse)
        return Verdict(
            _identical(expected, found), refused, trial=trial, example=example.inputs, random_example=example.random
        )
    untried = refused or UNTRIED
    return Verdict(in_place=False, unbatched=untried, example=example.inputs, random_example=example.random)


def example_inputs(ports: Signature, run: Run, example: Example = NO_EXAMPLE) -> list[Feed]:
    """Return inputs that the model accepts: one row and, if the model accepts batches, `ROWS` rows.

    The list is empty if the model accepts none of the random inputs.
    """
    for _, row in _first_rows(ports, example):
        if attempt(run, row) is None:
            continue
        rows = {name: np.concatenate([array] * ROWS) for name, array in row.items()} if ports.may_batch else row
        return [row, rows] if ports.may_batch and attempt(run, rows) is not None else [row]
    return []


def observed(ports: Signature, run: Run, example: Example = NO_EXAMPLE) -> Signature:
    """Return the signature, with shapes of outputs corrected after an execution of the model.

    A graph may declare no shape for an output, or a wrong shape. A dimension whose declared size is wrong becomes free.
    If the number of dimensions is wrong, all dimensions become free. If the model accepts no random input, the declared
    shapes are kept.
    """
    for _, row in _first_rows(ports, example):
        outputs = attempt(run, row)
        if outputs is not None:
            pairs = zip(ports.outputs, outputs, strict=True)
            return replace(ports, outputs=tuple(_corrected(port, array.shape) for port, array in pairs))
    return ports


def _corrected(port: Port, found: tuple[int, ...]) -> Port:
    declared = port.info.shape
    if len(declared) != len(found):
        return Port(replace(port.info, shape=(FREE,) * len(found)), ("",) * len(found))
    shape = tuple(dim if dim in (FREE, size) else FREE for dim, size in zip(declared, found, strict=True))
    return port if shape == declared else Port(replace(port.info, shape=shape), port.symbols)


def _has_free(ports: Signature) -> bool:
    return any(FREE in port.info.shape[int(ports.may_batch) :] for port in ports.inputs)


def _first_rows(ports: Signature, example: Example) -> Iterator[tuple[Sequence[Shape], Feed]]:
    """Yield shapes and elements for the first row, until the model accepts a row."""
    for size in SIZES if _has_free(ports) else SIZES[:1]:
        shapes = [_sized(ports, port, size) for port in ports.inputs]
        if any(prod(shape) > MAX_ELEMENTS for shape in shapes):
            break
        yield shapes, _feed(ports, shapes, seed=1)
    if example.inputs.shapes:
        yield example.inputs.shapes, _feed(ports, example.inputs.shapes, seed=1)
        given = example_feed(ports, example)
        if example.row and given is not None:  # zeros would hide weights that are wrong
            yield example.inputs.shapes, given


def _rows(ports: Signature, shapes: Sequence[Shape], plan: TrialPlan) -> Iterator[Feed]:
    """Generate the rows to try after the first row. The first row has seed 1."""
    for seed, kind in enumerate(row_kinds(plan.thorough, plan.coarse), 2):
        yield _feed(ports, shapes, seed, kind)


def _sized(ports: Signature, port: Port, size: int) -> Shape:
    shape = [size if dim == FREE else dim for dim in port.info.shape]
    if ports.may_batch:
        shape[0] = 1
    return tuple(shape)


def _feed(ports: Signature, shapes: Sequence[Shape], seed: int, kind: str = "fractions") -> Feed:
    """Return one row of random inputs."""
    generator = np.random.default_rng(seed)
    return {
        port.info.name: random_elements(port, shape, generator, kind)
        for port, shape in zip(ports.inputs, shapes, strict=True)
    }


def _identical(expected: list[Array], found: list[Array] | None) -> bool:
    """Return whether two lists of arrays are equal bit for bit.

    The same kernels on the same weights give the same bits. If all outputs are integers, the result is False, because
    equal integers prove too little.
    """
    if found is None or not any(is_float(array) and array.size for array in expected):
        return False
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(expected, found, strict=True))


def is_close(wanted: Array, found: Array) -> bool:
    """Return whether two arrays differ no more than the results of kernels that add in a different order."""
    if wanted.shape != found.shape:
        return False
    if not is_float(wanted):
        return True  # one different bit of a score can change a class or a token
    expected: Any = wanted.astype(np.float64)
    difference: Any = np.where(np.isfinite(expected), found.astype(np.float64) - expected, 0.0)
    norm = np.linalg.norm(np.where(np.isfinite(expected), expected, 0.0))
    return bool(np.linalg.norm(difference) <= MAX_DIFFERENCE * norm)
