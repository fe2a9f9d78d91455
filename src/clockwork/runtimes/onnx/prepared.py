"""The graph, optimised once; its weights beside it, used in place by every session.

Rules of the file: after `prepare`, the model's files are not needed any more. Weights lie once in host memory, however
many sessions use them.

ONNX Runtime writes the optimised graph with its larger weights in external data; both are read back, the weights into
one aligned block. A session is then made from the graph alone, and told to use the block's tensors as they lie there
(``SessionOptions.add_initializer``). Nothing of them is parsed, copied, or put into fresh memory, whose pages cost more
than the copying. Measured for ResNet-50 (102 MB), one core: 4 ms, where ONNX Runtime takes 92 from the original file
and 20 to 60 from the optimised one. Some weights may still be packed anew for every session
(`clockwork.runtimes.onnx.packing`).

The options of a session hold its weights. They are made once and kept: filling them takes 1.5 ms for the 330 tensors of
DenseNet-121, most of them under the interpreter's lock, which inferences need as well.

Before it looks at its options, ONNX Runtime checks that the external data could be read. Hence the `Placeholder`: a
file of the right length that has no blocks on the disk. `clockwork.runtimes.probe` makes sure that nothing comes
from it.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import onnx

from clockwork.arrays import Array, dtype_of
from clockwork.errors import InvalidModelError, ServerError
from clockwork.runtimes.onnx.files import tensors_of_node
from clockwork.runtimes.onnx.sessions import FAILURES, Provider, describe, options, ort_value, session
from clockwork.runtimes.onnx.signature import signature
from clockwork.runtimes.ort import onnxruntime
from clockwork.runtimes.signature import Signature
from clockwork.units import KIB, Bytes

INLINE_BYTES_MAX: Final[Bytes] = KIB
"""Smaller weights stay in the graph: shapes and scalars, which ONNX Runtime reads while it loads."""

ALIGNMENT: Final[Bytes] = 64
"""A cache line, and the widest vector register."""

WEIGHTS: Final = "weights"
"""The location of external data in prepared graphs."""

SCRATCH: Final = "clockwork-"
"""How the names of directories begin that exist while a model is prepared."""

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
"""What numpy can hold. Weights of other types (4-bit and 8-bit floats, strings) stay in the graph."""


class Placeholder:
    """A file of zeros that takes no space, in a directory of its own; see the module's docstring."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bytes = 0
        self._make()

    def _make(self) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="clockwork-")) / WEIGHTS
        weakref.finalize(self, shutil.rmtree, self._path.parent, ignore_errors=True)

    def directory(self, nbytes: Bytes) -> str:
        """The directory of a file of at least ``nbytes``. Made again where something tidied it away."""
        with self._lock:
            if not self._path.parent.is_dir():
                self._make()
            if nbytes > self._bytes or not self._path.exists():
                self._bytes = max(self._bytes, nbytes)
                with self._path.open("ab") as file:
                    file.truncate(self._bytes)
            return str(self._path.parent)


class PreparedModel:
    """A graph in ONNX's format, and the block of memory in which its external data lies."""

    def __init__(self, graph: bytes, weights: Array, ports: Signature) -> None:
        """``weights`` is a block of bytes, with all of the graph's external data."""
        self.graph = graph
        self.weights = weights
        self.ports = ports
        self._values = _values(graph, weights)
        self._options: dict[tuple[int, str | None, bool], Any] = {}
        self._portable: dict[bool, Any] = {}

    @property
    def nbytes(self) -> Bytes:
        """What it takes of host memory."""
        return len(self.graph) + self.weights.nbytes

    def session(self, threads: int, placeholder: Placeholder | None, packed: bool) -> Any:
        """A new session. It uses this object's memory, which has to outlive it; without placeholder, copies of it.

        ``packed``: as in `sessions.options`. Raises one of `sessions.FAILURES`.
        """
        directory = None
        if self._values and placeholder is not None:
            directory = placeholder.directory(self.weights.nbytes)
        wanted = self._options.get((threads, directory, packed))
        if wanted is None:  # two threads may both make them; then one of the two is kept
            wanted = self._options[threads, directory, packed] = self._made(threads, directory, packed)
        return session(self.graph, wanted)

    def portable_session(self, provider: Provider, recorded: bool = False) -> Any:
        """A new session that executes the graph as ``provider`` likes it, with copies of the weights.

        ``recorded``: it can tell which nodes are executed where. Raises as `sessions.session` does.
        """
        wanted = self._portable.get(recorded)
        if wanted is None:
            wanted = self._portable[recorded] = self._made(1, None, True)
            wanted.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            wanted.add_session_config_entry("session.record_ep_graph_assignment_info", str(int(recorded)))
        return session(self.graph, wanted, provider)

    def _made(self, threads: int, directory: str | None, packed: bool) -> Any:
        wanted = options(threads, packed)
        wanted.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._values and directory is None:
            wanted.add_external_initializers(list(self._values), list(self._values.values()))
        elif directory is not None:
            wanted.add_session_config_entry("session.model_external_initializers_file_folder_path", directory)
            for name, value in self._values.items():
                wanted.add_initializer(name, value)
        return wanted


def prepare(path: Path, threads: int, scratch: Path | None, portable: bool = False) -> tuple[Any, PreparedModel]:
    """A session of the model file as it is, and the model prepared. Needs disk space for the weights in ``scratch``.

    ``portable``: optimised as far as holds for every device ("basic" in ONNX Runtime's documentation), else for this
    CPU.

    Raises:
        InvalidModelError: ONNX Runtime cannot load it, or its inputs or outputs are of unsupported types.
    """
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=scratch) as directory:
        optimised = Path(directory) / "model.onnx"
        wanted = options(threads)
        wanted.optimized_model_filepath = str(optimised)
        if portable:
            wanted.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        for key, value in (("file_name", WEIGHTS), ("min_size_in_bytes", str(INLINE_BYTES_MAX))):
            wanted.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
        try:
            original = session(str(path), wanted)
        except FAILURES as error:
            raise _cannot_load(path, error) from error
        ports = signature(original.get_inputs(), original.get_outputs())
        model = onnx.load_model(optimised, load_external_data=False)
        weights = _block(model.graph, Path(directory))
    return original, PreparedModel(model.SerializeToString(deterministic=True), weights, ports)


def open_unpacked(path: Path, threads: int) -> Any:
    """A session of the model file as it is, without packed weights.

    Raises:
        InvalidModelError: ONNX Runtime cannot load it.
    """
    try:
        return session(str(path), options(threads, packed=False))
    except FAILURES as error:
        raise _cannot_load(path, error) from error


def aligned(nbytes: Bytes) -> Array:
    """An uninitialised block of bytes that begins at a multiple of `ALIGNMENT`."""
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + nbytes]


def _cannot_load(path: Path, error: Exception) -> InvalidModelError:
    return InvalidModelError(f"ONNX Runtime cannot load {path.name!r}: {describe(error)}")


def _block(graph: Any, directory: Path) -> Array:
    """Read the weights into one aligned block, and write into the graph where in it each tensor lies."""
    shared = []
    size = 0
    for tensor in _external(graph.initializer):
        if tensor.data_type in _DTYPES:
            _, length = _range(tensor)
            shared.append((tensor, size, length))
            size += -(-length // ALIGNMENT) * ALIGNMENT
        else:
            _inline(tensor, directory)
    # No session can be given the weights of a subgraph from outside.
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


def _external(found: Iterable[Any]) -> list[Any]:
    return [it for it in found if it.data_location == onnx.TensorProto.EXTERNAL]


def _range(tensor: Any) -> tuple[int, Bytes]:
    entry = {it.key: it.value for it in tensor.external_data}
    return int(entry.get("offset", 0)), int(entry["length"])


def _read(tensor: Any, directory: Path, into: memoryview) -> None:
    (location,) = (it.value for it in tensor.external_data if it.key == "location")
    offset, length = _range(tensor)
    with (directory / location).open("rb", buffering=0) as file:
        file.seek(offset)
        done = 0
        while done < length and (count := file.readinto(into[done:])):
            done += count
    if done < length:
        raise ServerError(f"the optimised model's weights are cut off at {done} of {length} bytes: is the disk full?")


def _inline(tensor: Any, directory: Path) -> None:
    content = bytearray(_range(tensor)[1])
    _read(tensor, directory, memoryview(content))
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
    tensor.raw_data = bytes(content)


def _values(graph: bytes, weights: Array) -> dict[str, Any]:
    """ONNX Runtime's values of the graph's external data: views of the block."""
    model = onnx.ModelProto()
    model.ParseFromString(graph)
    found = {}
    for tensor in _external(model.graph.initializer):
        offset, _ = _range(tensor)
        view: Array = np.ndarray(tuple(tensor.dims), _DTYPES[tensor.data_type], weights.data, offset)
        found[tensor.name] = ort_value(view)
    return found
