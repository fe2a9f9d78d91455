"""Opens and runs sessions of ONNX Runtime. No other module opens or runs sessions.

This module keeps ONNX Runtime from printing messages. The module also keeps ONNX Runtime from switching to a different
provider without an error. The module shortens ONNX Runtime's error texts and removes paths and source lines, because
clients receive these texts.

All sessions of a process allocate from one arena. A separate arena for each session would have two disadvantages.
First, the arena would keep as much memory as the session's largest batch needed. Second, the first inferences after
each LoadWeights would run on fresh memory, which is slow: for AlexNet at batch 8, the first two took 233 and 165 ms
instead of 141 ms.
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
from clockwork.malloc import return_large_blocks
from clockwork.runtimes.common import error_text, inference_error
from clockwork.runtimes.ort import onnxruntime
from clockwork.units import Bytes

binding: Final = onnxruntime.capi.onnxruntime_pybind11_state

LIBRARY: Final = "ONNX Runtime"
"""The name of the library in error messages."""

FAILURES: Final[tuple[type[Exception], ...]] = (
    *(member for member in vars(binding).values() if isinstance(member, type) and issubclass(member, Exception)),
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""All exceptions that ONNX Runtime raises. These exceptions have no common base class except Exception."""

_FATAL: Final = 4
_BFLOAT16: Final = 16  # TensorProto.BFLOAT16
_LOST: Final = re.compile(r"\bCUDA failure (?:4|46|214|220|226|700|702|709|710|71[4-9]|721|911)\b")
"""Matches CUDA errors after which the device is gone, or "the process must be terminated and relaunched" (CUDA Runtime
API).
"""

_MEMORY: Final = re.compile(r"allocate memory|Available memory of|out of memory|ALLOC_FAILED", re.IGNORECASE)
_SHAPES: Final = re.compile(r"\b(shapes?|dimensions?|dims|broadcast\w*|reshaped|rank)\b", re.IGNORECASE)
_NUMBERS: Final = re.compile(r"Status Message: sto(?:i|l|ll|ul|ull|f|d|ld)\b")
"""Matches the error text of the operator Cast for a string that is not a number. The text names the C++ function that
failed.
"""

_NOISE: Final = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |(?<!\w)/\S+|\bFile:\S*|"
    r"\b\w+\.(?:cc|h|cpp|hpp):\d+\b|\b(?:\w+::)+~?\w+(?:\([^)]*\)|[&*])"
)

_RUN: Final = onnxruntime.RunOptions()
_RUN.log_severity_level = _FATAL


@cache
def share_one_arena() -> None:
    """Make the arena from which all sessions of this process allocate. Later calls do nothing."""
    onnxruntime.set_default_logger_severity(_FATAL)
    return_large_blocks()
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # With strategy 1, the arena grows by the requested size. Strategy 0 would round this size up to a power of two.
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}))


def options(threads: int, packed: bool = True) -> Any:
    """Return the options of a session that computes with ``threads`` threads, including the calling thread.

    If ``packed`` is true, the session packs weights; see `clockwork.runtimes.onnx.packing`.
    """
    share_one_arena()
    result = onnxruntime.SessionOptions()
    result.intra_op_num_threads = threads
    result.inter_op_num_threads = 1
    result.log_severity_level = _FATAL
    result.add_session_config_entry("session.use_env_allocators", "1")
    result.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
    if threads == 1:
        result.add_session_config_entry("session.intra_op.allow_spinning", "0")
    else:
        # Threads may spin between the kernels of an inference. After the inference, threads must stop spinning, because
        # a different device or lane may need the core.
        result.add_session_config_entry("session.force_spinning_stop", "1")
    return result


class Provider(Struct, frozen=True):
    """An execution provider and its options. The CPU executes the nodes that the provider cannot execute."""

    name: str
    options: tuple[tuple[str, str], ...] = ()


CPU: Final = Provider("CPUExecutionProvider")


def session(model: str | bytes, with_options: Any, provider: Provider = CPU) -> Any:
    """Open a session from a path or from bytes.

    This function may raise any exception in `FAILURES`. If the provider cannot be used, ServerError is raised, because
    ONNX Runtime would silently execute everything on the CPU.
    """
    providers = [(provider.name, dict(provider.options)), (CPU.name, {})] if provider != CPU else [(CPU.name, {})]
    opened = onnxruntime.InferenceSession(model, with_options, providers=providers, enable_fallback=0)
    found = opened.get_providers()
    if found[0] != provider.name:
        raise ServerError(f"ONNX Runtime could not use its {provider.name}; it used {', '.join(found)}")
    return opened


def run(opened: Any, outputs: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    """Run a session that has no BF16 inputs or outputs.

    Raises:
        InvalidRequestError: the model rejects these inputs.
        DeviceLostError: the device can no longer execute anything.
        ServerError: the execution failed for any other reason.
    """
    try:
        return opened.run(outputs, feed, _RUN)  # type: ignore[no-any-return]
    except FAILURES as error:
        raise _inference_error(error) from error


def run_with_bfloat16(opened: Any, outputs: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    """Run a session that may have inputs or outputs of type BF16, which numpy lacks.

    The call takes about 30 us longer than `run`.
    """
    try:
        values = opened.run_with_ort_values(outputs, {name: ort_value(array) for name, array in feed.items()}, _RUN)
        return [_array(value) for value in values]
    except FAILURES as error:
        raise _inference_error(error) from error


def ort_value(array: Array) -> Any:
    """Return an OrtValue that uses the array's memory. The array must live longer than the OrtValue."""
    if array.dtype.kind != "O" and array.dtype.isbuiltin != 1:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def check_not_lost(error: Exception) -> None:
    """Check whether an error of ONNX Runtime means that the device is lost.

    Raises:
        DeviceLostError: the device can no longer execute anything.
    """
    if _LOST.search(str(error)):
        raise DeviceLostError(f"a CUDA device is lost, so the worker ends: {describe(error)}") from error


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
    # ONNX Runtime provides only the address of BF16 data. The data is copied, because the OrtValue owns the memory.
    copied = ctypes.string_at(value.data_ptr(), nbytes)
    return np.ndarray(shape, dtype, copied)


def _inference_error(error: Exception) -> InvalidRequestError | ServerError:
    """Return InvalidRequestError if a kernel rejects shapes, or a string that is not a number.

    Otherwise, return ServerError.
    """
    check_not_lost(error)
    text = str(error)
    rejected = isinstance(error, binding.InvalidArgument) or (
        isinstance(error, binding.RuntimeException | binding.Fail) and (_SHAPES.search(text) or _NUMBERS.search(text))
    )
    return inference_error(describe(error), out_of_memory=bool(_MEMORY.search(text)), inputs_rejected=bool(rejected))
