"""Finds inputs that a model accepts, so that it can be tried and measured.

Theory of operation. *Candidates* are tried in a fixed order until the model accepts one:

1. the inputs that the operator gives (`clockwork.runtimes.given`), in the order of their sources;
2. every free dimension with each of `SIZES`;
3. the last two dimensions of an input, if both are free, with each of `AREAS`;
4. if the model has a free first dimension that is not a batch dimension: the first dimensions with 1, and every other
   free dimension with each of `SIZES`;
5. every free dimension with 1.

Sizes that follow from the graph, such as the number of channels, replace the sizes in this list. If the operator gives
only some of the inputs, the other inputs get the sizes of step 2. The elements are zeros. If the model refuses zeros
and has an input whose type is not a float type, random elements are tried as well. The reason is that a model may
refuse an empty text or a size of 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array
from clockwork.clock import MonotonicClock
from clockwork.errors import ClockworkError, InvalidModelError
from clockwork.messages.results import ExampleInputs
from clockwork.runtimes.given import GivenInputs, Shape, elements, row_shape
from clockwork.runtimes.random_elements import FLOATS, random_elements, zeros
from clockwork.runtimes.signature import FREE, Port, Signature
from clockwork.runtimes.trial import Feed, Run
from clockwork.units import SECOND, Nanos

FREE_DIM: Final = 128
"""The size of free dimensions that is tried first."""

SIZES: Final = (FREE_DIM, 224, 64, 32, 16, 256, 299, 384, 512, 640, 28, 77, 8, 3000, 16000)
"""Sizes of free dimensions in the order in which they are tried.

The sizes suit tokens (128, 64, 77), images (224 to 640, 28), frames of audio (3000), and one second of audio samples
(16000).
"""

AREAS: Final = ((48, 320), (32, 100), (480, 640))
"""Pairs of different heights and widths. The pairs suit lines of text, and photos."""

MAX_ELEMENTS: Final = 1 << 24
"""Largest number of elements of an input that is tried."""

BUDGET: Final[Nanos] = 30 * SECOND
"""Time after which no further candidate is tried."""

MAX_REFUSED: Final = 8
"""Number of refused candidates that are reported. The first refused candidates are reported."""

MAX_REASON: Final = 240
"""Longest text about a refusal, in characters. Longer texts are cut."""

SENSIBLE: Final = "sizes that Clockwork tries"
"""Name of the source for inputs that come from steps 2 to 5."""

UNMEASURED: Final = "the model accepts none of the inputs that were tried; the first was refused: {reason}"

Known: TypeAlias = Mapping[str, Mapping[int, int]]
"""Sizes of free dimensions that follow from the graph, by input and dimension."""

_clock: Final = MonotonicClock()


class Example(Struct, frozen=True):
    """Result of the search. ``row`` contains one row of elements for each input whose elements are not zeros."""

    inputs: ExampleInputs
    random: bool = False
    row: Mapping[str, Array] = {}


class Search(Struct, frozen=True):
    """Facts about the inputs of a model that are known before the search.

    ``free_dim`` replaces `FREE_DIM`. If ``only_zeros`` is true, all elements are zeros, and given elements are ignored.
    """

    given: tuple[GivenInputs, ...] = ()
    known: Known = {}
    free_dim: int = FREE_DIM
    only_zeros: bool = False


class _Candidate(Struct, frozen=True):
    source: str
    shapes: tuple[Shape, ...]
    given: GivenInputs | None = None
    random: bool = False


def find_example(ports: Signature, run: Run, search: Search) -> Example:
    """Return the first candidate that the model accepts, or an example without shapes.

    Raises:
        InvalidModelError: inputs that the operator gives do not fit the model.
    """
    refused: list[str] = []
    begin = _clock.now()
    for candidate in _candidates(ports, search, refused):
        if refused and _clock.now() - begin > BUDGET:
            break
        try:
            row = _row(ports, candidate, search.only_zeros)
        except InvalidModelError as error:
            if candidate.given is None or candidate.given.strict:
                raise
            refused.append(str(error)[:MAX_REASON])
            continue
        try:
            run(_feed(ports, candidate.shapes, row))
        except ClockworkError as error:
            refused.append(f"{_describe(ports, candidate)}: {error}"[:MAX_REASON])
            continue
        inputs = ExampleInputs(candidate.shapes, candidate.source, refused=_first(refused))
        return Example(inputs, candidate.random, row)
    reason = UNMEASURED.format(reason=refused[0] if refused else "its inputs are too large")
    return Example(ExampleInputs(unmeasured=reason, refused=_first(refused)))


def _first(refused: list[str]) -> tuple[str, ...]:
    """Return the first refusals, and a text with the number of further refusals."""
    more = len(refused) - MAX_REFUSED
    return tuple(refused[:MAX_REFUSED]) + ((f"{more} more",) if more > 0 else ())


def remembered(ports: Signature, search: Search, inputs: ExampleInputs, random: bool) -> Example:
    """Return an example that was found earlier.

    The elements of an example are not stored, so the elements are made again.
    """
    if not inputs.shapes:
        return Example(inputs)
    given = next((each for each in search.given if each.source == inputs.source), None)
    candidate = _Candidate(inputs.source, inputs.shapes, given, random)
    return Example(inputs, random, _row(ports, candidate, search.only_zeros))


def example_feed(ports: Signature, example: Example) -> Feed | None:
    """Return the inputs of an example, or None if no example was found."""
    return _feed(ports, example.inputs.shapes, example.row) if example.inputs.shapes or not ports.inputs else None


def _candidates(ports: Signature, search: Search, refused: list[str]) -> Iterator[_Candidate]:
    """Yield the candidates in order.

    If inputs of the operator do not fit the model, and this is not treated as an error, add them to ``refused``.
    """
    seen: set[tuple[tuple[Shape, ...], bool, str]] = set()
    only_floats = all(port.info.datatype in FLOATS for port in ports.inputs)
    kinds = (False,) if search.only_zeros or only_floats else (False, True)
    for source, shapes, given in _shapes(ports, search, refused):
        if any(prod(shape) > MAX_ELEMENTS for shape in shapes):
            continue
        for random in kinds:
            key = (shapes, random, source if given is not None else "")
            if key not in seen:
                seen.add(key)
                yield _Candidate(source, shapes, given, random)


def _shapes(
    ports: Signature, search: Search, refused: list[str]
) -> Iterator[tuple[str, tuple[Shape, ...], GivenInputs | None]]:
    """Yield the shapes of all inputs, the name of their source, and the inputs that this source gives."""
    sizes = (search.free_dim, *SIZES)
    for given in search.given:
        try:
            fixed = _given_shapes(ports, given)
        except InvalidModelError as error:
            if given.strict:
                raise
            refused.append(str(error)[:MAX_REASON])
            continue
        for size in sizes if len(fixed) < len(ports.inputs) else sizes[:1]:
            yield given.source, _shaped(ports, search.known, _Sizes(size), fixed), given
    steps = [*map(_Sizes, sizes), *(_Sizes(search.free_dim, area=area) for area in AREAS)]
    if not ports.may_batch:
        steps += [_Sizes(size, first=1) for size in sizes]
    for step in (*steps, _Sizes(1)):
        yield SENSIBLE, _shaped(ports, search.known, step, {}), None


class _Sizes(Struct, frozen=True):
    """Sizes for free dimensions: the first dimension, the last two if both are free, and all other dimensions."""

    others: int
    first: int | None = None
    area: tuple[int, int] | None = None

    def of(self, shape: Shape, at: int) -> int:
        """Return the size of a free dimension of a declared shape."""
        if at == 0 and self.first is not None:
            return self.first
        if self.area is not None and at and at >= len(shape) - 2 and shape[-2:] == (FREE, FREE):
            return self.area[at - len(shape)]
        return self.others


def _shaped(ports: Signature, known: Known, sizes: _Sizes, fixed: Mapping[str, Shape]) -> tuple[Shape, ...]:
    return tuple(
        fixed[port.info.name] if port.info.name in fixed else _filled(ports, port, known, sizes)
        for port in ports.inputs
    )


def _filled(ports: Signature, port: Port, known: Known, sizes: _Sizes) -> Shape:
    """Return the declared shape of an input, with one row and with sizes in place of free dimensions."""
    declared = port.info.shape
    from_graph = known.get(port.info.name, {})
    shape = [from_graph.get(at, sizes.of(declared, at)) if dim == FREE else dim for at, dim in enumerate(declared)]
    if ports.may_batch:
        shape[0] = 1
    return tuple(shape)


def _given_shapes(ports: Signature, given: GivenInputs) -> dict[str, Shape]:
    """Return the shapes of the inputs that are given.

    Raises:
        InvalidModelError: the inputs do not fit the model.
    """
    by_name = {port.info.name: port for port in ports.inputs}
    unknown = sorted(each.name for each in given.inputs if each.name not in by_name)
    if unknown:
        raise InvalidModelError(
            f"{given.source} gives an input {unknown[0]!r}, which the model lacks; it has {', '.join(by_name)}"
        )
    return {each.name: row_shape(each, by_name[each.name], given.source, ports.may_batch) for each in given.inputs}


def _row(ports: Signature, candidate: _Candidate, only_zeros: bool) -> dict[str, Array]:
    """Return the elements of those inputs of a candidate that are not all zeros."""
    generator = np.random.default_rng(1)
    row: dict[str, Array] = {}
    for port, shape in zip(ports.inputs, candidate.shapes, strict=True):
        given = None if candidate.given is None or only_zeros else candidate.given.of(port.info.name)
        if given is not None and given.has_data:
            assert candidate.given is not None
            row[port.info.name] = elements(given, port, shape, candidate.given.source)
        elif candidate.random or (given is not None and given.random):
            row[port.info.name] = random_elements(port, shape, generator)
    return row


def _feed(ports: Signature, shapes: Sequence[Shape], row: Mapping[str, Array]) -> dict[str, Array]:
    return {
        port.info.name: row[port.info.name] if port.info.name in row else zeros(port.info.datatype, shape)
        for port, shape in zip(ports.inputs, shapes, strict=True)
    }


def _describe(ports: Signature, candidate: _Candidate) -> str:
    shapes = [
        f"{port.info.name} {port.info.datatype}[{','.join(map(str, shape))}]"
        for port, shape in zip(ports.inputs, candidate.shapes, strict=True)
    ]
    source = "" if candidate.given is None else f" ({candidate.source})"
    return f"{', '.join(shapes)}{' with random elements' if candidate.random else ''}{source}"
