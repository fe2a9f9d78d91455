"""The batches that a controller will ask for, so that all is captured for them before it does.

Rules of the file: it follows `clockwork.controller.measuring`: powers of two up to the largest, free dimensions at
`FREE_DIM`, or at 1 where the program refuses that.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array
from clockwork.errors import InvalidRequestError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.probe import random_elements
from clockwork.runtimes.signature import FREE, Port
from clockwork.runtimes.torch.program import Program
from clockwork.runtimes.torch.shapes import Shape
from clockwork.runtimes.torch.tensors import DATATYPES
from clockwork.runtimes.torch.weights import Layout, contiguous

FREE_DIM: Final = 128
"""As in `clockwork.controller.config.ProfilingConfig`."""

MAX_BATCH: Final = 16
"""The largest batch, if nothing else is said; as there."""

_TYPES: Final[dict[str, Any]] = {datatype.value: dtype for dtype, datatype in DATATYPES.items()}


class Example(Struct, frozen=True):
    """Inputs of one size, made up."""

    rows: int
    shapes: tuple[Shape, ...]
    layout: Layout
    arrays: list[Array]


def examples(info: HostModelInfo, program: Program, max_batch: int) -> Iterator[Example]:
    """One for each size, smallest first, as far as the program takes them."""
    for free in (FREE_DIM, 1):
        if _accepted(program, shapes_of(info, 1, free)):
            rows = 1
            while rows <= (max_batch if info.batchable else 1):
                shapes = shapes_of(info, rows, free)
                if not _accepted(program, shapes):
                    break
                yield _example(program, rows, shapes)
                rows *= 2
            break


def shapes_of(info: HostModelInfo, rows: int, free: int) -> tuple[Shape, ...]:
    """The inputs' shapes for so many rows, with free dimensions of one size."""
    shapes = []
    for it in info.inputs:
        shape = tuple(free if dim == FREE else dim for dim in it.shape)
        shapes.append((rows, *shape[1:]) if info.batchable else shape)
    return tuple(shapes)


def layout_of(program: Program, shapes: tuple[Shape, ...]) -> Layout:
    """Where inputs of these shapes lie in a slot."""
    kinds = [_TYPES[it.info.datatype] for it in program.ports.inputs]
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
