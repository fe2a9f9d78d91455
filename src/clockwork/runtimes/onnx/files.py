"""Finds a model file and the files of its external data, checks them, and computes their digest.

This module opens a file outside the model's directory only if the operator allows the link to this file
(`clockwork.runtimes.links`). This rule also applies to the locations of external data in a model. The paths in error
messages are relative to the model's directory.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError
from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.runtimes.foreign_files import HEAD_BYTES, recognise
from clockwork.runtimes.links import NO_LINKS, OPTION, LinkPolicy
from clockwork.runtimes.locating import locate
from clockwork.runtimes.onnx.zipmap import replace_zipmaps
from clockwork.runtimes.reading import read_file
from clockwork.units import KIB, Bytes

SUFFIX: Final = ".onnx"
"""File name suffix of ONNX models."""

MAX_PROTOBUF_BYTES: Final = (1 << 31) - 1
"""Size limit of a protobuf message. Larger models store their weights in external data (ONNX, "External Data")."""

MAX_OUTLINE_BYTES: Final[Bytes] = 32 * KIB
"""Size in bytes of the largest tensor whose elements stay in a model's outline. Tensors that contain shapes or axes are
smaller.
"""

_ELEMENTS: Final = (
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"
)  # fmt: skip


class ModelFile(Struct, frozen=True):
    """A checked model file, and the digest of the file and its external data."""

    path: Path
    digest: str
    outline: Any = None
    """The ModelProto, without the elements of its larger tensors."""
    content: bytes | None = None
    """The bytes of the model to open in place of the file, or None if the file itself is opened."""
    folder: Path = Path()
    """Directory in which the external data of ``content`` is found."""


def find(path: Path, name: str = "", links: LinkPolicy = NO_LINKS) -> Path:
    """Return the model file for a path, by the rules of `clockwork.runtimes.locating.locate`."""
    return locate(path, SUFFIX, "an ONNX model", name, links)


def read(path: Path, links: LinkPolicy = NO_LINKS) -> ModelFile:
    """Read and check the model file that `find` returned, and its external data.

    Raises:
        InvalidModelError: the file is unreadable, too large or not an ONNX model, or its external data is missing,
            truncated or outside the model's directory.
    """
    try:
        size = path.stat().st_size
        if size > MAX_PROTOBUF_BYTES:
            raise InvalidModelError(
                f"{path.name!r} has {size} bytes; one file can have at most {MAX_PROTOBUF_BYTES}: "
                "save the model with external data"
            )
        content = read_file(path)
        digest = hashlib.sha256(content)
        model = _parsed(path.name, content)
        del content  # the bytes take as much memory as the model and are not needed any more
        changed = replace_zipmaps(model.graph)
        directory = path.resolve().parent
        moved: dict[str, str] = {}
        for location, nbytes in sorted(_external_files(path.name, model).items()):
            file = _add_external(path, location, nbytes, digest, links)
            if not file.is_relative_to(directory):
                moved[location] = str(file.relative_to("/"))
        _relocate(model, moved)
        changed = changed or bool(moved)
        rewritten = model.SerializeToString() if changed else None
    except OSError as error:
        raise InvalidModelError(f"{path.name!r} cannot be read: {error.strerror or type(error).__name__}") from error
    _strip(model)
    return ModelFile(path, digest.hexdigest(), model, rewritten, Path("/") if moved else path.parent)


def digest_of_one_file(path: Path) -> str:
    """Return the digest of a model without external data. Return an empty text if the file cannot be read.

    Other threads can use the interpreter while this function reads and computes. If the model has external data, the
    result is not the digest of a model.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _strip(model: Any) -> None:
    """Remove the elements of larger tensors, but keep their types and shapes."""
    functions = (tensor for function in model.functions for node in function.node for tensor in tensors_of_node(node))
    for tensor in [*tensors(model.graph), *functions]:
        if tensor.ByteSize() > MAX_OUTLINE_BYTES:
            for field in _ELEMENTS:
                tensor.ClearField(field)


def tensors(graph: Any) -> Iterator[Any]:
    """Yield every TensorProto of a GraphProto: initializers and attributes of nodes, including those in subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from tensors_of_node(node)


def tensors_of_node(node: Any) -> Iterator[Any]:
    """Yield every TensorProto in the attributes of a NodeProto, including those in subgraphs."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from tensors(attribute.g)
        for graph in attribute.graphs:
            yield from tensors(graph)


def nodes(graph: Any) -> Iterator[Any]:
    """Yield every NodeProto of a GraphProto or FunctionProto, including those in subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from nodes(subgraph)


def _check_stateless(name: str, model: Any) -> None:
    """Reject a model that keeps state between requests.

    In training mode, a BatchNormalization of ONNX Runtime 1.32 writes its running mean and variance back into the
    session. A response would then depend on earlier requests.
    """
    for part in (model.graph, *model.functions):
        for node in nodes(part):
            if node.op_type == "BatchNormalization" and any(
                attribute.name == "training_mode" and attribute.i for attribute in node.attribute
            ):
                raise InvalidModelError(
                    f"{name!r} computes BatchNormalization {node.name!r} in training mode, which keeps state between "
                    "requests: export the model for inference"
                )


def _parsed(name: str, content: bytearray) -> Any:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        problem = "" if model.HasField("graph") and model.graph.output else "it has no graph with outputs"
    except DecodeError:
        problem = f"or is cut off: its {len(content)} bytes do not parse"
    if problem:
        found = recognise(bytes(content[:HEAD_BYTES]))
        comma = "," if problem.startswith("or") else ":"
        raise InvalidModelError(f"{name!r} {found}" if found else f"{name!r} is not an ONNX model{comma} {problem}")
    _check_stateless(name, model)
    for value in (*model.graph.input, *model.graph.output):
        if isinstance(value.name, bytes):
            raise InvalidModelError(
                f"the name {value.name!r} of an input or output of {name!r} is not UTF-8: export the model with another"
            )
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and not kind.HasField("shape"):
            raise InvalidModelError(
                f"input {value.name!r} of {name!r} has no declared number of dimensions: export the model with shapes"
            )
    return model


def _external_files(name: str, model: Any) -> dict[str, int]:
    """Return, by location, the smallest size that each file of external data must have."""
    found: dict[str, int] = {}
    functions = (tensor for function in model.functions for node in function.node for tensor in tensors_of_node(node))
    for tensor in [*tensors(model.graph), *functions]:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entry = {pair.key: pair.value for pair in tensor.external_data}
        try:
            offset, length = int(entry.get("offset") or 0), int(entry.get("length") or 0)
            if offset < 0 or length < 0:
                raise ValueError(entry)
            location = entry["location"]
        except (KeyError, ValueError):
            raise InvalidModelError(
                f"weights {tensor.name!r} of {name!r} have an invalid external data entry: {entry}"
            ) from None
        found[location] = max(found.get(location, 0), offset + length)
    return found


def _relocate(model: Any, moved: dict[str, str]) -> None:
    """Change the locations of external data.

    ONNX Runtime refuses links that point out of the model's directory. So the location of an allowed link is replaced
    with its target.
    """
    if not moved:
        return
    functions = (tensor for function in model.functions for node in function.node for tensor in tensors_of_node(node))
    for tensor in [*tensors(model.graph), *functions]:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            for pair in tensor.external_data:
                if pair.key == "location":
                    pair.value = moved.get(pair.value, pair.value)


def _add_external(model: Path, location: str, nbytes: int, digest: Any, links: LinkPolicy) -> Path:
    """Check one file of external data, add it to the digest, and return its resolved path.

    ONNX ("External Data") requires that a location is a path relative to the model's directory. After all links are
    resolved, the path must be below that directory, unless the operator allows the link.
    """
    directory = model.resolve().parent
    beside = model.parent / location  # the model may be a link itself, as in Hugging Face's cache
    file = (beside if beside.exists() else directory / location).resolve()
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise InvalidModelError(
            f"external data {location!r} of {model.name!r} lies outside the model's directory: save the "
            "model with its external data beside it"
        )
    if not file.is_relative_to(directory) and not links.allows(beside, file, model.parent.resolve()):
        raise InvalidModelError(
            f"external data {location!r} of {model.name!r} lies outside the model's directory: put it beside the "
            f"model, or start the worker with {OPTION} and the directory of the link's target"
        )
    if not file.is_file():
        raise InvalidModelError(f"external data {location!r} of {model.name!r} is missing: copy it beside the model")
    size = file.stat().st_size
    if size < nbytes:
        with file.open("rb") as data:
            found = recognise(data.read(HEAD_BYTES))
        if size and found:
            raise InvalidModelError(f"external data {location!r} of {model.name!r} {found}")
        raise InvalidModelError(
            f"external data {location!r} of {model.name!r} is cut off: it has {size} bytes, but needs {nbytes}"
        )
    digest.update(f"\0{location}\0{size}\0".encode())
    with file.open("rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    return file
