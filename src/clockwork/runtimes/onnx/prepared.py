"""A prepared model is a graph that was optimised once, with weights that every session uses in place.

After `prepare`, the model's files are not needed any more. Host memory contains the weights once, however many sessions
use them.

ONNX Runtime writes two files: the optimised graph, and its larger weights as external data. Both files are read back,
and the weights are read into one aligned block. A session is then opened from the graph alone. The session's weights
are tensors in the block (``SessionOptions.add_initializer``). So a new session parses and copies no weights, and
allocates no memory for them. Opening a session of ResNet-50 (102 MB) on one core takes 4 ms. With ONNX Runtime
alone, this takes 92 ms from the original file, and 20 to 60 ms from the optimised file. Nevertheless, sessions may pack
some of the weights (`clockwork.runtimes.onnx.packing`).

The options object of a session refers to the session's weights. All sessions of a model share one options object,
because filling it takes 1.5 ms for the 330 tensors of DenseNet-121. During most of this time, the interpreter's lock is
held, so inferences would have to wait.

ONNX Runtime checks that the external data can be read before it uses the weights in the options. The `Placeholder`
satisfies this check. The placeholder is a file that has the right length but takes no space on the disk.
`clockwork.runtimes.probe` checks that no weights are read from this file.
"""

import errno
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import onnx

from clockwork.arrays import Array, dtype_of
from clockwork.errors import InvalidModelError, ServerError
from clockwork.runtimes import scratch
from clockwork.runtimes.onnx.files import ModelFile, tensors_of_node
from clockwork.runtimes.onnx.original import open_original
from clockwork.runtimes.onnx.sessions import Provider, options, ort_value, session
from clockwork.runtimes.onnx.signature import signature
from clockwork.runtimes.ort import onnxruntime
from clockwork.runtimes.reading import read_into
from clockwork.runtimes.signature import Signature
from clockwork.units import KIB, Bytes

MAX_INLINE_BYTES: Final[Bytes] = KIB
"""Tensors of at most this size stay in the graph. Such tensors include shapes and scalars, which ONNX Runtime reads
when it opens a session.
"""

ALIGNMENT: Final[Bytes] = 64
"""Alignment of weights in bytes: the size of a cache line and of the widest vector register."""

WEIGHTS: Final = "weights"
"""Location of the external data that prepared graphs contain."""

_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.UINT8: np.dtype("u1"),
    onnx.TensorProto.INT8: np.dtype("i1"),
    onnx.TensorProto.UINT16: np.dtype("<u2"),
    onnx.TensorProto.INT16: np.dtype("<i2"),
    onnx.TensorProto.INT32: np.dtype("<i4"),
    onnx.TensorProto.INT64: np.dtype("<i8"),
    onnx.TensorProto.BOOL: np.dtype("?"),
    onnx.TensorProto.FLOAT16: np.dtype("<f2"),
    onnx.TensorProto.DOUBLE: np.dtype("<f8"),
    onnx.TensorProto.UINT32: np.dtype("<u4"),
    onnx.TensorProto.UINT64: np.dtype("<u8"),
    onnx.TensorProto.BFLOAT16: dtype_of("BF16"),
}
"""Types that numpy supports. Weights of other types (4-bit and 8-bit floats, strings) stay in the graph."""


class Placeholder:
    """A file of zeros that takes no disk space, in a separate directory; see the module's docstring."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bytes = 0
        self._make()

    def _make(self) -> None:
        directory = scratch.make()
        self._path = directory.path / WEIGHTS
        weakref.finalize(self, directory.remove)

    def directory(self, nbytes: Bytes) -> str:
        """Return a directory with a file of at least ``nbytes``. The directory is made again if it was removed."""
        with self._lock:
            if not self._path.parent.is_dir():
                self._make()
            if nbytes > self._bytes or not self._path.exists():
                self._bytes = max(self._bytes, nbytes)
                with self._path.open("ab") as file:
                    file.truncate(self._bytes)
            return str(self._path.parent)


class PreparedModel:
    """A graph in ONNX format, and a block of memory that contains the graph's external data."""

    def __init__(self, graph: bytes, weights: Array, ports: Signature) -> None:
        """``weights`` is a block of bytes that contains all of the graph's external data."""
        self.graph = graph
        self.weights = weights
        self.ports = ports
        self._values = _values(graph, weights)
        self._options: dict[tuple[int, str | None, bool], Any] = {}
        self._portable: dict[bool, Any] = {}

    @property
    def nbytes(self) -> Bytes:
        """Host memory of the graph and the weights, in bytes."""
        return len(self.graph) + self.weights.nbytes

    def session(self, threads: int, placeholder: Placeholder | None, packed: bool) -> Any:
        """Open a session that uses this object's memory, which must outlive the session.

        Without ``placeholder``, the session copies the weights. If ``packed`` is true, the session packs weights. The
        method may raise any of the exceptions in `sessions.FAILURES`.
        """
        directory = None
        if self._values and placeholder is not None:
            directory = placeholder.directory(self.weights.nbytes)
        session_options = self._options.get((threads, directory, packed))
        if session_options is None:  # two threads may both create options; one object is kept
            session_options = self._options[threads, directory, packed] = self._options_for(threads, directory, packed)
        return session(self.graph, session_options)

    def portable_session(self, provider: Provider, recorded: bool = False) -> Any:
        """Open a session that optimises the graph for ``provider`` and copies the weights.

        If ``recorded`` is true, the session records which provider executes each node. This method may raise the same
        errors as `sessions.session`.
        """
        session_options = self._portable.get(recorded)
        if session_options is None:
            session_options = self._portable[recorded] = self._options_for(1, None, True)
            session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            session_options.add_session_config_entry("session.record_ep_graph_assignment_info", str(int(recorded)))
        return session(self.graph, session_options, provider)

    def _options_for(self, threads: int, directory: str | None, packed: bool) -> Any:
        session_options = options(threads, packed)
        session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._values and directory is None:
            session_options.add_external_initializers(list(self._values), list(self._values.values()))
        elif directory is not None:
            session_options.add_session_config_entry("session.model_external_initializers_file_folder_path", directory)
            for name, value in self._values.items():
                session_options.add_initializer(name, value)
        return session_options


def prepare(file: ModelFile, threads: int, preferred: Path | None, portable: bool = False) -> tuple[Any, PreparedModel]:
    """Return a session of the original model file, and the prepared model.

    This function needs temporary space for the weights, in ``preferred`` or in one of the other `scratch.places`. If
    ``portable`` is true, it uses only the optimisations that are valid for every device ("basic" in ONNX Runtime's
    documentation). If ``portable`` is false, the optimisations are for this CPU.

    Raises:
        InvalidModelError: ONNX Runtime cannot load the model, an input or output has an unsupported type, or there is
            no temporary space.
    """
    failures = []
    for place in scratch.places(preferred):
        try:
            with scratch.ScratchDirectory(place) as directory:
                return _prepare_in(directory, file, threads, portable)
        except OSError as error:
            failures.append(f"{place}: {error.strerror}")
    tried = "; ".join(failures)
    raise InvalidModelError(
        f"cannot prepare {file.path.name!r}: no temporary space ({tried}); set TMPDIR to another directory"
    )


def _prepare_in(directory: Path, file: ModelFile, threads: int, portable: bool) -> tuple[Any, PreparedModel]:
    """Prepare a model with temporary files in ``directory``. If these files cannot be written, OSError is raised."""
    optimised = directory / "model.onnx"
    session_options = options(threads)
    session_options.optimized_model_filepath = str(optimised)
    if portable:
        session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    for key, value in (("file_name", WEIGHTS), ("min_size_in_bytes", str(MAX_INLINE_BYTES))):
        session_options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    try:
        original = open_original(file, session_options)
    except InvalidModelError as error:
        if scratch.is_full(directory):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    ports = signature(original.get_inputs(), original.get_outputs(), original.get_overridable_initializers())
    model = onnx.load_model(optimised, load_external_data=False)
    weights = _block(model.graph, directory)
    return original, PreparedModel(model.SerializeToString(deterministic=True), weights, ports)


def open_unpacked(file: ModelFile, threads: int) -> Any:
    """Open a session of the original model file, without packed weights.

    Raises:
        InvalidModelError: ONNX Runtime cannot load the model.
    """
    return open_original(file, options(threads, packed=False))


def aligned(nbytes: Bytes) -> Array:
    """Return an uninitialised block of bytes that begins at a multiple of `ALIGNMENT`."""
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + nbytes]


def _block(graph: Any, directory: Path) -> Array:
    """Read the weights into one aligned block, and write each tensor's offset in the block into the graph."""
    shared = []
    size = 0
    for tensor in _external(graph.initializer):
        if tensor.data_type in _DTYPES:
            _, length = _range(tensor)
            shared.append((tensor, size, length))
            size += -(-length // ALIGNMENT) * ALIGNMENT
        else:
            _inline(tensor, directory)
    # A session cannot get the weights of a subgraph from outside.
    for node in graph.node:
        for tensor in _external(tensors_of_node(node)):
            _inline(tensor, directory)
    block = aligned(size)
    for tensor, at, length in shared:
        _read(tensor, directory, block.data[at : at + length])
        del tensor.external_data[:]
        for key, value in (("location", WEIGHTS), ("offset", str(at)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    return block


def _external(tensors: Iterable[Any]) -> list[Any]:
    return [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]


def _range(tensor: Any) -> tuple[int, Bytes]:
    entry = {pair.key: pair.value for pair in tensor.external_data}
    return int(entry.get("offset", 0)), int(entry["length"])


def _read(tensor: Any, directory: Path, into: memoryview) -> None:
    (location,) = (pair.value for pair in tensor.external_data if pair.key == "location")
    offset, length = _range(tensor)
    with (directory / location).open("rb", buffering=0) as file:
        file.seek(offset)
        done = read_into(file, into)
    if done < length:
        raise ServerError(
            f"the optimised model's weights end after {done} of {length} bytes: check that the disk is not full"
        )


def _inline(tensor: Any, directory: Path) -> None:
    content = bytearray(_range(tensor)[1])
    _read(tensor, directory, memoryview(content))
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
    tensor.raw_data = bytes(content)


def _values(graph: bytes, weights: Array) -> dict[str, Any]:
    """Return the graph's external data as OrtValues, which are views of the block."""
    model = onnx.ModelProto()
    model.ParseFromString(graph)
    found = {}
    for tensor in _external(model.graph.initializer):
        offset, _ = _range(tensor)
        view: Array = np.ndarray(tuple(tensor.dims), _DTYPES[tensor.data_type], weights.data, offset)
        found[tensor.name] = ort_value(view)
    return found
