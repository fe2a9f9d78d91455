"""From a path to a model file, the files of its external data, and the digest of it all.

Rules of the file: nothing outside the directory that was named is ever opened: neither by a symbolic link
(`clockwork.runtimes.locating`) nor by the locations that a model gives of its external data. Messages name files
relative to it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError
from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.runtimes.locating import locate
from clockwork.units import KIB, Bytes

SUFFIX: Final = ".onnx"
"""How the name of a model's file ends."""

PROTOBUF_BYTES_MAX: Final = (1 << 31) - 1
"""Protobuf's own limit; a larger model keeps its weights in external data (ONNX, "External Data")."""


OUTLINE_BYTES: Final[Bytes] = 32 * KIB
"""Larger weights are left out of the outline; shapes and axes are smaller."""

_ELEMENTS: Final = (
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"
)  # fmt: skip


class ModelFile(Struct, frozen=True):
    """A model file that has been checked, and the digest of everything it is made of."""

    path: Path
    digest: str
    outline: Any = None
    """The model as a ModelProto, without the elements of its larger weights."""


def find(path: Path) -> Path:
    """The model file that a path means; see `clockwork.runtimes.locating.locate`."""
    return locate(path, SUFFIX, "ONNX model")


def read(path: Path) -> ModelFile:
    """Read the model file that `find` found, and check that its external data is there and its own.

    Raises:
        InvalidModelError: unreadable, no ONNX model, too large, or external data that is missing, cut off or elsewhere.
    """
    try:
        size = path.stat().st_size
        if size > PROTOBUF_BYTES_MAX:
            raise InvalidModelError(
                f"{path.name!r} has {size} bytes; more than {PROTOBUF_BYTES_MAX} cannot be in one file: "
                "save the model with external data"
            )
        content = path.read_bytes()
        digest = hashlib.sha256(content)
        model = _parsed(path.name, content)
        del content  # as large as the model, and no longer needed
        for location, nbytes in sorted(_external_files(path.name, model).items()):
            _add_external(path, location, nbytes, digest)
    except OSError as error:
        raise InvalidModelError(f"{path.name!r} cannot be read: {error.strerror or type(error).__name__}") from error
    _strip(model)
    return ModelFile(path, digest.hexdigest(), model)


def _strip(model: Any) -> None:
    """Remove the elements of larger weights; their types and shapes stay."""
    functions = (it for function in model.functions for node in function.node for it in tensors_of_node(node))
    for tensor in [*tensors(model.graph), *functions]:
        if tensor.ByteSize() > OUTLINE_BYTES:
            for field in _ELEMENTS:
                tensor.ClearField(field)


def tensors(graph: Any) -> Iterator[Any]:
    """Every TensorProto of a GraphProto: initializers, and attributes of nodes, in subgraphs too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from tensors_of_node(node)


def tensors_of_node(node: Any) -> Iterator[Any]:
    """Every TensorProto of a NodeProto: its attributes, and those of the subgraphs among them."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from tensors(attribute.g)
        for graph in attribute.graphs:
            yield from tensors(graph)


def nodes(graph: Any) -> Iterator[Any]:
    """Every NodeProto of a GraphProto or a FunctionProto, those of subgraphs among them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from nodes(subgraph)


def _check_stateless(name: str, model: Any) -> None:
    """Refuse a model that carries numbers from one request to the next.

    ONNX Runtime 1.32 writes the running mean and variance of a BatchNormalization in training mode back into the
    session, so an answer would depend on what other clients have sent.
    """
    for part in (model.graph, *model.functions):
        for node in nodes(part):
            if node.op_type == "BatchNormalization" and any(
                it.name == "training_mode" and it.i for it in node.attribute
            ):
                raise InvalidModelError(
                    f"{name!r} computes BatchNormalization {node.name!r} in training mode, which keeps numbers of one "
                    "request for the next: export the model for inference"
                )


def _parsed(name: str, content: bytes) -> Any:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise InvalidModelError(
            f"{name!r} is no ONNX model, or is cut off: its {len(content)} bytes do not parse"
        ) from None
    if not model.HasField("graph") or not model.graph.output:
        raise InvalidModelError(f"{name!r} is no ONNX model: it has no graph with outputs")
    _check_stateless(name, model)
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and not kind.HasField("shape"):
            raise InvalidModelError(
                f"input {value.name!r} of {name!r} does not say how many dimensions it has: "
                "export the model with its shape"
            )
    return model


def _external_files(name: str, model: Any) -> dict[str, int]:
    """The locations of external data, and the size that each file must have at least."""
    found: dict[str, int] = {}
    functions = (it for function in model.functions for node in function.node for it in tensors_of_node(node))
    for tensor in [*tensors(model.graph), *functions]:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entry = {it.key: it.value for it in tensor.external_data}
        try:
            offset, length = int(entry.get("offset") or 0), int(entry.get("length") or 0)
            if offset < 0 or length < 0:
                raise ValueError(entry)
            location = entry["location"]
        except (KeyError, ValueError):
            raise InvalidModelError(
                f"weights {tensor.name!r} of {name!r} lie in external data, but where exactly is not said: {entry}"
            ) from None
        found[location] = max(found.get(location, 0), offset + length)
    return found


def _add_external(model: Path, location: str, nbytes: int, digest: Any) -> None:
    """Check one file of external data, and add it to the digest.

    A location is relative and stays below the directory of the model file, wherever links lead (ONNX, "External Data":
    a path relative to the model's directory).
    """
    home = model.resolve().parent
    file = (home / location).resolve()
    if Path(location).is_absolute() or ".." in Path(location).parts or not file.is_relative_to(home):
        raise InvalidModelError(
            f"external data {location!r} of {model.name!r} lies outside the model's directory, where nothing is read: "
            "save the model with its external data beside it"
        )
    if not file.is_file():
        raise InvalidModelError(f"external data {location!r} of {model.name!r} is missing: copy it beside the model")
    size = file.stat().st_size
    if size < nbytes:
        raise InvalidModelError(
            f"external data {location!r} of {model.name!r} is cut off: {nbytes} bytes are needed, {size} are there"
        )
    digest.update(f"\0{location}\0{size}\0".encode())
    with file.open("rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
