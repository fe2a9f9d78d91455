"""Makes example inputs for the batches that a controller will send, so that graphs can be captured in advance.

The batch sizes are the same as in `clockwork.controller.measuring`: powers of two up to the largest batch. The shapes
are taken from the model's example. Without an example, free dimensions have size `FREE_DIM`, or 1 if the program
refuses that size.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array
from clockwork.errors import InvalidRequestError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.random_elements import random_elements
from clockwork.runtimes.signature import FREE, Port
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.shapes import Shape
from clockwork.runtimes.torch.tensors import DATATYPES
from clockwork.runtimes.torch.weights import Layout, contiguous

FREE_DIM: Final = 128
"""Size of free dimensions; the default of `clockwork.controller.config.ProfilingConfig`."""

MAX_BATCH: Final = 16
"""Largest batch size by default; the default of `clockwork.controller.config.ProfilingConfig`."""

_TYPES: Final[dict[str, Any]] = {datatype.value: dtype for dtype, datatype in DATATYPES.items()}


class Example(Struct, frozen=True):
    """Generated inputs of one batch size."""

    rows: int
    shapes: tuple[Shape, ...]
    layout: Layout
    arrays: list[Array]


def examples(info: HostModelInfo, program: Program, max_batch: int) -> Iterator[Example]:
    """Yield an example for each batch size that the program accepts, with the smallest first."""
    found = () if info.example is None else info.example.shapes
    for row in (found,) if found else (shapes_of(info, 1, FREE_DIM), shapes_of(info, 1, 1)):
        if _accepted(program, row):
            rows = 1
            while rows <= (max_batch if info.batchable else 1):
                shapes = tuple((rows, *shape[1:]) if info.batchable else shape for shape in row)
                if not _accepted(program, shapes):
                    break
                yield _example(program, rows, shapes)
                rows *= 2
            break


def shapes_of(info: HostModelInfo, rows: int, free: int) -> tuple[Shape, ...]:
    """Return the shapes of the inputs for ``rows`` rows. Free dimensions have size ``free``."""
    shapes = []
    for info_of_input in info.inputs:
        shape = tuple(free if dim == FREE else dim for dim in info_of_input.shape)
        shapes.append((rows, *shape[1:]) if info.batchable else shape)
    return tuple(shapes)


def layout_of(program: Program, shapes: tuple[Shape, ...]) -> Layout:
    """Return the layout of inputs of these shapes in a slot."""
    kinds = [_TYPES[port.info.datatype] for port in program.ports.inputs]
    return contiguous(list(zip(kinds, shapes, strict=True)))


def _accepted(program: Program, shapes: tuple[Shape, ...]) -> bool:
    try:
        program.shapes.check(shapes)
    except InvalidRequestError:
        return False
    return True


def _example(program: Program, rows: int, shapes: tuple[Shape, ...]) -> Example:
    chance = np.random.default_rng(rows)
    pairs: list[tuple[Port, Shape]] = list(zip(program.ports.inputs, shapes, strict=True))
    return Example(
        rows, shapes, layout_of(program, shapes), [random_elements(port, shape, chance) for port, shape in pairs]
    )
