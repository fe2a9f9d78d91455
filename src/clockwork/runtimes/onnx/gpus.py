"""Creates ONNX Runtime's CUDA provider, and a memory arena that all sessions of a device share.

If a library is missing, the worker reports this at its start, with instructions. This code has not run on a real device
yet. The messages for a machine without a driver were tested with onnxruntime-gpu 1.31.1.

Theory of operation. By default, each ONNX Runtime session has a separate memory arena with a separate limit. So there
would be no limit for all sessions together. Clockwork instead creates one arena per device when it starts. The arena's
limit is the size of the weights cache plus the workspace. ONNX Runtime calls this limit "max_mem", or "gpu_mem_limit"
for the arena of a single session. The arena grows by regions of `REGION` bytes, and joins adjacent free blocks within a
region. The strategy "kSameAsRequested" is not used. With this strategy, each region would be only as large as the
weights that were placed there first. Larger weights would then not fit, even if enough memory was free in total.
"""

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Final, Protocol

from clockwork.errors import InvalidRequestError
from clockwork.runtimes.onnx.sessions import FAILURES, Provider, describe, share_one_arena
from clockwork.runtimes.ort import onnxruntime
from clockwork.units import GIB, MIB, Bytes

CUDA: Final = "CUDAExecutionProvider"

REGION: Final[Bytes] = GIB
"""Size by which a device's arena grows. Larger weights get a larger region. ONNX Runtime requires less than 2 GiB."""

MAX_DEAD: Final[Bytes] = MIB
"""Largest part of a memory block that may stay unused. A larger unused part becomes a separate block. ONNX Runtime's
default is 128 MiB.
"""

OPTIONS: Final = (
    # The default tries every algorithm for every convolution and each new shape, which takes seconds.
    ("cudnn_conv_algo_search", "HEURISTIC"),
    # The documentation warns that, with a separate stream for copies, a kernel might read data before the copy is
    # complete.
    ("do_copy_in_default_stream", "1"),
    # Use 32-bit products, as a CPU does, so that a model's outputs do not depend on the device.
    ("use_tf32", "0"),
)
"""Options of the CUDA provider; see "CUDA Execution Provider" in ONNX Runtime's documentation."""


class Gpus(Protocol):
    """The GPUs of one worker."""

    @property
    def kind(self) -> str:
        """Kind of the devices, such as ``cuda NVIDIA H100 80GB HBM3``."""
        ...

    def reserve(self, nbytes: Bytes) -> None:
        """Reserve ``nbytes`` of each device's memory for all of its sessions together.

        Raises:
            InvalidRequestError: the devices cannot be used. The message contains the reason and a remedy.
        """
        ...

    def provider(self, device: int) -> Provider:
        """Return the provider that executes models on a device."""
        ...


class CudaGpus:
    """The first ``count`` of the devices that this process can see."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._limit: Bytes = 0
        self.kind = f"cuda {name}"

    def reserve(self, nbytes: Bytes) -> None:
        """Check the build and the libraries of ONNX Runtime, and make the arenas; see `Gpus.reserve`."""
        check_build()
        share_one_arena()  # for nodes that run on the CPU; also silences ONNX Runtime
        found = load_libraries(onnxruntime.preload_dlls)
        self._limit = nbytes
        for device in range(self._count):
            try:
                make_arena(device, nbytes)
            except FAILURES as error:
                raise InvalidRequestError(
                    f"ONNX Runtime {onnxruntime.__version__} cannot use CUDA device {device}: "
                    f"{describe(error)}{'; ' if found else ''}{found}. See docs/gpu.md, or use --device cpu"
                ) from error

    def provider(self, device: int) -> Provider:
        """Return the CUDA provider with its options; see `Gpus.provider`."""
        limit = ("gpu_mem_limit", str(self._limit))
        return Provider(CUDA, (("device_id", str(device)), limit, *OPTIONS))


def check_build(available: Sequence[str] | None = None) -> None:
    """Check that this ONNX Runtime was built for CUDA.

    ``available`` is the list of its providers. If ``available`` is None, ONNX Runtime supplies the list.

    Raises:
        InvalidRequestError: ONNX Runtime was built without CUDA.
    """
    if CUDA not in (onnxruntime.get_available_providers() if available is None else available):
        raise InvalidRequestError(
            f"this ONNX Runtime ({onnxruntime.__version__}) was built without CUDA: run pip uninstall onnxruntime and "
            "pip install onnxruntime-gpu, or use --device cpu"
        )


def load_libraries(preload: Callable[[], Any]) -> str:
    """Load the CUDA and cuDNN libraries that pip installed. Return the first line of output about missing libraries."""
    out = StringIO()
    with redirect_stdout(out):  # ONNX Runtime prints the names of missing libraries
        preload()
    return out.getvalue().partition("\n")[0].strip()


def make_arena(device: int, nbytes: Bytes) -> None:
    """Create the arena that all sessions of a device share.

    If the arena exists or cannot be created, raise one of `FAILURES`.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cuda", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, device, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator_v2(
        CUDA, memory, {"device_id": str(device)}, onnxruntime.OrtArenaCfg(arena(nbytes))
    )


def arena(nbytes: Bytes) -> dict[str, int]:
    """Return the options of an arena of ``nbytes`` (``OrtArenaCfg``)."""
    region = min(REGION, nbytes)
    return {
        "max_mem": nbytes,
        "arena_extend_strategy": 0,  # a region has the size below, or a larger power of two
        "initial_chunk_size_bytes": region,
        "max_power_of_two_extend_bytes": region,
        "max_dead_bytes_per_chunk": MAX_DEAD,
    }


def nodes_on_cpu(assigned: Any) -> str:
    """Return a text about nodes that run on the CPU, such as ``3 of 120 nodes on the CPU: NonZero, Shape``.

    ``assigned`` is the return value of a session's ``get_provider_graph_assignment_info()``. If no node runs on the
    CPU, the text is empty.
    """
    total, on_cpu, operators = 0, 0, set[str]()
    for part in assigned:
        nodes = part.get_nodes()
        total += len(nodes)
        if part.ep_name == "CPUExecutionProvider":
            on_cpu += len(nodes)
            operators.update(node.op_type for node in nodes)
    return f"{on_cpu} of {total} nodes on the CPU: {', '.join(sorted(operators))}" if on_cpu else ""
