"""Reads the example inputs that the operator gives for a model.

Three sources are read, in this order: ``--model-shape``, the file ``NAME.example.json`` beside ``NAME.onnx``, and
``model_warmup`` in Triton's config.pbtxt. Files are read only inside the model's directory, and up to `MAX_FILE` bytes.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from clockwork.arrays import Array, dtype_of, from_payload
from clockwork.errors import ClockworkError, InvalidModelError
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, Datatype, TensorSpec
from clockwork.runtimes.config_pbtxt import beside, read_config
from clockwork.runtimes.links import LinkPolicy
from clockwork.runtimes.signature import FREE, Port
from clockwork.units import MIB, Bytes

OPTION: Final = "--model-shape"
SUFFIX: Final = ".example.json"
WARMUP: Final = "model_warmup"
WARMUP_DIRECTORY: Final = "warmup"
"""Name of the directory beside config.pbtxt that contains the elements for model_warmup."""

MAX_FILE: Final[Bytes] = 64 * MIB
"""Limit of the size of a file with example data. An image of 3 x 1080 x 1920 floats has 24 MiB."""

MAX_DIM: Final = 1 << 28
"""Largest size of a dimension of an example."""

_SHAPE: Final = re.compile(r"([^:]+):(.+)=(\d+(?:x\d+)*)")

Shape = tuple[int, ...]


class GivenInput(Struct, frozen=True):
    """One input of an example.

    ``values`` contains its elements as JSON, and ``raw`` contains them as a payload. ``values`` and ``raw`` are None if
    no elements are given. ``random`` means that the elements are random and not zeros.
    """

    name: str
    shape: Shape
    values: Any = None
    raw: bytes | None = None
    random: bool = False

    @property
    def has_data(self) -> bool:
        """Whether the operator gives elements."""
        return self.values is not None or self.raw is not None


class GivenInputs(Struct, frozen=True):
    """The example inputs from one source, such as ``--model-shape``.

    ``key`` identifies these inputs. ``strict`` means that a mistake in these inputs is an error.
    """

    source: str
    inputs: tuple[GivenInput, ...]
    key: str
    strict: bool = True

    def __repr__(self) -> str:
        return f"GivenInputs({self.source!r}, {self.key!r})"

    def of(self, name: str) -> GivenInput | None:
        """Return what this source gives for an input, or None."""
        return next((given for given in self.inputs if given.name == name), None)


class _JsonInput(Struct):
    name: str
    shape: list[int]
    data: Any = None
    datatype: str = ""


class _JsonFile(Struct):
    inputs: list[_JsonInput]


def parse_model_shape(text: str) -> tuple[str, str, Shape]:
    """Return the model, the input and the shape of a value of ``--model-shape``, such as ``ocr:x=3x48x320``.

    Raises:
        ValueError: the text does not have this form.
    """
    found = _SHAPE.fullmatch(text)
    shape = () if found is None else tuple(int(dim) for dim in found[3].split("x"))
    if found is None or len(shape) > MAX_RANK or max(shape) > MAX_DIM:
        raise ValueError(f"invalid shape {text!r}; write NAME:INPUT=DIMENSIONS, for example ocr:x=3x48x320")
    return found[1], found[2], shape


def shapes_by_model(texts: Iterable[str]) -> dict[str, dict[str, Shape]]:
    """Return the shapes of all values of ``--model-shape``, by model and input.

    Raises:
        ValueError: a text does not have the form that `parse_model_shape` expects.
    """
    shapes: dict[str, dict[str, Shape]] = {}
    for text in texts:
        model, name, shape = parse_model_shape(text)
        shapes.setdefault(model, {})[name] = shape
    return shapes


def given_inputs(
    shapes: Mapping[str, Shape] | None, path: Path, file: Path, links: LinkPolicy
) -> tuple[GivenInputs, ...]:
    """Return the inputs that the operator gives for a model, with one entry for each source.

    ``shapes`` contains the shapes of ``--model-shape``. ``file`` is the model file that ``path`` refers to.

    Raises:
        InvalidModelError: a file cannot be read.
    """
    found = []
    if shapes:
        inputs = tuple(GivenInput(name, shape) for name, shape in sorted(shapes.items()))
        found.append(GivenInputs(OPTION, inputs, repr(inputs)))
    found += _from_json(file, links)
    found += _from_warmup(path, file, links)
    return tuple(found)


def row_shape(given: GivenInput, port: Port, source: str, batches: bool) -> Shape:
    """Return the shape of an input with one row. A given shape may lack the batch dimension.

    Raises:
        InvalidModelError: the shape does not fit the input.
    """
    declared, shape = port.info.shape, given.shape
    if len(shape) == len(declared) - 1 and declared[0] == FREE:
        shape = (1, *shape)
    elif batches and len(shape) == len(declared):
        shape = (1, *shape[1:])
    fits = len(shape) == len(declared) and all(want in (FREE, size) for want, size in zip(declared, shape, strict=True))
    if not fits:
        raise InvalidModelError(
            f"{source} gives input {given.name!r} the shape {list(given.shape)}; the model takes {port.info.describe()}"
        )
    return shape


def elements(given: GivenInput, port: Port, shape: Shape, source: str) -> Array:
    """Return the given elements as an array of ``shape``. Strings are of type str.

    Raises:
        InvalidModelError: there are too few or too many elements, or their type is wrong.
    """
    datatype = port.info.datatype
    try:
        if given.raw is not None:
            spec = TensorSpec(port.info.name, datatype, shape, len(given.raw))
            array = from_payload(spec, given.raw)
            if datatype == Datatype.BYTES:
                array = np.array([text.decode() for text in array.ravel().tolist()], object).reshape(shape)
            return array
        values: Any = np.array(_flat(given.values), object)
        if datatype == Datatype.BYTES:
            if not all(isinstance(text, str) for text in values.tolist()):
                raise ValueError("elements that are not strings")
            return values.reshape(shape)  # type: ignore[no-any-return]
        return values.astype(dtype_of(datatype)).reshape(shape)  # type: ignore[no-any-return]
    except (ClockworkError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidModelError(
            f"the elements that {source} gives input {given.name!r} do not make {datatype}{list(shape)}: {error}"
        ) from None


def _flat(values: Any) -> list[Any]:
    if not isinstance(values, list):
        return [values]
    return [leaf for value in values for leaf in _flat(value)] if any(type(v) is list for v in values) else values


def _from_json(file: Path, links: LinkPolicy) -> list[GivenInputs]:
    source = file.with_suffix(SUFFIX)
    content = _read(source, file.parent, links)
    if content is None:
        return []
    try:
        inputs = msgspec.json.decode(content, type=_JsonFile).inputs
        given = tuple(GivenInput(each.name, _dims(each.shape), each.data) for each in inputs)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidModelError(
            f'{source.name!r} does not describe inputs: {error}; write {{"inputs": [{{"name": ..., "shape": [...]}}]}}'
        ) from None
    return [GivenInputs(source.name, given, hashlib.sha256(content).hexdigest())] if given else []


def _from_warmup(path: Path, file: Path, links: LinkPolicy) -> list[GivenInputs]:
    """Return the inputs of the first entry of model_warmup that Clockwork supports."""
    config = beside(path, file)
    fields = None if config is None else read_config(config, path.name)
    for entry in (fields or {}).get(WARMUP, []):
        assert config is not None
        inputs = entry.get("inputs", []) if isinstance(entry, dict) else []
        try:
            given = tuple(_warmup_input(each, config.parent / WARMUP_DIRECTORY, links) for each in inputs[:MAX_TENSORS])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            continue
        if given:
            content = [(each.name, each.shape, each.random, each.raw) for each in given]
            key = hashlib.sha256(repr(content).encode()).hexdigest()
            return [GivenInputs(f"{WARMUP} in config.pbtxt", given, key, strict=False)]
    return []


def _warmup_input(entry: Any, directory: Path, links: LinkPolicy) -> GivenInput:
    """Return an entry of the map ``inputs`` of model_warmup.

    If a value does not have the expected form, the usual Python exceptions are raised.
    """
    name, value = entry["key"][-1], entry["value"][-1]
    if not isinstance(name, str):
        raise TypeError(name)
    shape = _dims(value.get("dims", []))
    raw = None
    if "input_data_file" in value:
        data = value["input_data_file"][-1]
        if "/" in data or data in ("", ".", ".."):
            raise ValueError(data)
        raw = _read(directory / data, directory.parent, links)
        if raw is None:
            raise ValueError(data)
    return GivenInput(name, shape, raw=raw, random=value.get("random_data", [False])[-1] is True)


def _dims(dims: list[Any]) -> Shape:
    if len(dims) > MAX_RANK or not all(type(dim) is int and 0 <= dim <= MAX_DIM for dim in dims):
        raise ValueError(f"a shape has at most {MAX_RANK} dimensions, each from 0 to {MAX_DIM}")
    if prod(dims) > MAX_DIM:
        raise ValueError(f"a shape has more than {MAX_DIM} elements")
    return tuple(dims)


def _read(path: Path, home: Path, links: LinkPolicy) -> bytes | None:
    """Return the content of a file in the directory ``home``, or None if the file does not exist.

    Raises:
        InvalidModelError: the file cannot be read, is too large, or is a link that may not be followed.
    """
    try:
        if not path.is_file():
            return None
        if not links.allows(path, path.resolve(), home.resolve()):
            raise InvalidModelError(
                f"{path.name!r} is a link that points out of the model's directory: replace it with the file"
            )
        with path.open("rb") as source:
            content = source.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidModelError(f"{path.name!r} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE:
        raise InvalidModelError(f"{path.name!r} is longer than {MAX_FILE} bytes: shorten it")
    return content
