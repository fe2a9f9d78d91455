"""ONNX Runtime itself: the only module that makes a session or runs one.

Rules of the file: nothing is printed, and nothing falls back silently. What ONNX Runtime says is cut to its first
sentence or two; paths and source lines are taken out, because messages travel to clients.

All sessions of a process allocate from one arena. With an arena of its own, every session keeps what its largest batch
ever took, and the first inferences after each LoadWeights run on fresh memory: measured for AlexNet at batch 8, 233 and
165 ms instead of 141.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from msgspec import Struct

from clockwork.arrays import Array, dtype_of
from clockwork.errors import DeviceLostError, InvalidRequestError, ServerError
from clockwork.heap import give_back
from clockwork.runtimes.common import error_text, inference_error
from clockwork.runtimes.ort import onnxruntime
from clockwork.units import Bytes

binding: Final = onnxruntime.capi.onnxruntime_pybind11_state

LIBRARY: Final = "ONNX Runtime"
"""The name of the library in error messages."""

FAILURES: Final[tuple[type[Exception], ...]] = (
    *(it for it in vars(binding).values() if isinstance(it, type) and issubclass(it, Exception)),
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Whatever ONNX Runtime raises: its exceptions have no base of their own."""

_FATAL: Final = 4
_BFLOAT16: Final = 16  # TensorProto.BFLOAT16
_LOST: Final = re.compile(r"\bCUDA failure (?:4|46|214|220|226|700|702|709|710|71[4-9]|721|911)\b")
"""After these "the process must be terminated and relaunched" (CUDA Runtime API), or the device has gone."""

_MEMORY: Final = re.compile(r"allocate memory|Available memory of|out of memory|ALLOC_FAILED", re.IGNORECASE)
_SHAPES: Final = re.compile(r"\b(shapes?|dimensions?|dims|broadcast\w*|reshaped|rank)\b", re.IGNORECASE)
_NUMBERS: Final = re.compile(r"Status Message: sto(?:i|l|ll|ul|ull|f|d|ld)\b")
"""What Cast says of a string that is no number: the name of the C++ function that could not parse it."""

_NOISE: Final = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |(?<!\w)/\S+|\bFile:\S*|"
    r"\b\w+\.(?:cc|h|cpp|hpp):\d+\b|\b(?:\w+::)+~?\w+(?:\([^)]*\)|[&*])"
)

_RUN: Final = onnxruntime.RunOptions()
_RUN.log_severity_level = _FATAL


@cache
def share_one_arena() -> None:
    """Make the arena from which the sessions of this process allocate. Once; asking again does nothing."""
    onnxruntime.set_default_logger_severity(_FATAL)
    give_back()
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # 1: grow by what is asked for, rather than to the next power of two
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}))


def options(threads: int, packed: bool = True) -> Any:
    """Options of a session that computes with ``threads`` threads, of which one is the caller's.

    ``packed``: it may copy weights into a layout of its own; see `clockwork.runtimes.onnx.packing`.
    """
    share_one_arena()
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.log_severity_level = _FATAL
    made.add_session_config_entry("session.use_env_allocators", "1")
    made.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
    if threads == 1:
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    else:
        # Spin between the kernels of one inference, but not after it: the core belongs to another device or lane then.
        made.add_session_config_entry("session.force_spinning_stop", "1")
    return made


class Provider(Struct, frozen=True):
    """What executes the nodes of a graph, with its options; nodes that it cannot execute run on the CPU."""

    name: str
    options: tuple[tuple[str, str], ...] = ()


CPU: Final = Provider("CPUExecutionProvider")


def session(model: str | bytes, with_options: Any, provider: Provider = CPU) -> Any:
    """A session, from a path or from bytes.

    Raises one of `FAILURES`, or ServerError if the provider could not be used: ONNX Runtime itself would execute
    everything on the CPU then, and say nothing.
    """
    providers = [(provider.name, dict(provider.options)), (CPU.name, {})] if provider != CPU else [(CPU.name, {})]
    made = onnxruntime.InferenceSession(model, with_options, providers=providers, enable_fallback=0)
    found = made.get_providers()
    if found[0] != provider.name:
        raise ServerError(f"ONNX Runtime could not use its {provider.name}, only {', '.join(found)}")
    return made


def run(over: Any, outputs: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    """Run a session without BF16 inputs and outputs.

    Raises:
        InvalidRequestError: it refuses these inputs.
        DeviceLostError: all that comes would fail as well.
        ServerError: anything else.
    """
    try:
        return over.run(outputs, feed, _RUN)  # type: ignore[no-any-return]
    except FAILURES as error:
        raise _inference_error(error) from error


def run_with_bfloat16(over: Any, outputs: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    """Run a session that may have BF16 inputs and outputs, which numpy does not know. Some 30 us slower than `run`."""
    try:
        values = over.run_with_ort_values(outputs, {name: ort_value(array) for name, array in feed.items()}, _RUN)
        return [_array(value) for value in values]
    except FAILURES as error:
        raise _inference_error(error) from error


def ort_value(array: Array) -> Any:
    """The array as ONNX Runtime's own kind of value, in the same memory. The array has to outlive it."""
    if array.dtype.kind != "O" and array.dtype.isbuiltin != 1:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def check_not_lost(error: Exception) -> None:
    """What ONNX Runtime has raised: is its device lost with it?

    Raises:
        DeviceLostError: all that comes would fail as well.
    """
    if _LOST.search(str(error)):
        raise DeviceLostError(f"a CUDA device is lost, and the worker ends: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return ONNX Runtime's error text without paths and source lines; see `clockwork.runtimes.common.error_text`."""
    return error_text(error, _NOISE)


def _array(value: Any) -> Array:
    if value.element_type() != _BFLOAT16:
        return value.numpy()  # type: ignore[no-any-return]
    dtype, shape = dtype_of("BF16"), tuple(value.shape())
    nbytes: Bytes = value.tensor_size_in_bytes()
    if not nbytes:
        return np.empty(shape, dtype)
    # ONNX Runtime hands BF16 out by address only; copied, because the memory goes with the value.
    copied = ctypes.string_at(value.data_ptr(), nbytes)
    return np.ndarray(shape, dtype, copied)


def _inference_error(error: Exception) -> InvalidRequestError | ServerError:
    """Blame the client if a kernel rejects shapes, or a string that is not a number; otherwise blame the server."""
    check_not_lost(error)
    text = str(error)
    rejected = isinstance(error, binding.InvalidArgument) or (
        isinstance(error, binding.RuntimeException | binding.Fail) and (_SHAPES.search(text) or _NUMBERS.search(text))
    )
    return inference_error(describe(error), out_of_memory=bool(_MEMORY.search(text)), inputs_rejected=bool(rejected))
