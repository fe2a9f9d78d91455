"""What ONNX Runtime needs to execute on CUDA devices: its provider, and the arena that all sessions of a device share.

Rules of the file: whatever is missing is found at the start, and said with what to do. Not yet run on a real device;
what is said where there is none was seen with onnxruntime-gpu 1.31.1 on a machine without a driver.

Theory of operation. Each session would have an arena of its own, with a limit of its own, so that nothing would bound
them together. One arena for each device is made at the start instead, with the weights cache and the workspace as its
limit: ONNX Runtime calls it "max_mem", for an arena that belongs to a session "gpu_mem_limit". It grows by regions of
`REGION`, in which what is freed is joined with its neighbours; with "kSameAsRequested" each region would be as large as
the weights that were first put there, and larger ones would find no place, however much is free.
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
"""By so much the arena of a device grows, or by what larger weights need. ONNX Runtime takes less than 2 GiB here."""

DEAD_MAX: Final[Bytes] = MIB
"""More is not lost at the end of a block that is larger than what was asked for (ONNX Runtime's default: 128 MiB)."""

OPTIONS: Final = (
    # The default tries every algorithm of every convolution, for seconds, when a shape comes first.
    ("cudnn_conv_algo_search", "HEURISTIC"),
    # Copies on a stream of their own can be overtaken by what reads them, says the documentation.
    ("do_copy_in_default_stream", "1"),
    # Products of 32 bits with 32 bits, as on a CPU: what a model answers should not depend on the device.
    ("use_tf32", "0"),
)
"""Of the provider; see "CUDA Execution Provider" in ONNX Runtime's documentation."""


class Gpus(Protocol):
    """The devices of one worker, as ONNX Runtime sees them."""

    @property
    def kind(self) -> str:
        """``cuda NVIDIA H100 80GB HBM3``."""
        ...

    def take(self, nbytes: Bytes) -> None:
        """Let the sessions of each device have so much memory together.

        Raises:
            InvalidRequestError: the devices cannot be used; says why, and what to do.
        """
        ...

    def provider(self, device: int) -> Provider:
        """What executes on a device."""
        ...


class CudaGpus:
    """Devices 0 to ``count`` - 1 of those that CUDA shows this process."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._limit: Bytes = 0
        self.kind = f"cuda {name}"

    def take(self, nbytes: Bytes) -> None:
        """See `Gpus`."""
        check_build()
        share_one_arena()  # for nodes that run on the CPU; from then on ONNX Runtime prints nothing
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
        """See `Gpus`."""
        limit = ("gpu_mem_limit", str(self._limit))
        return Provider(CUDA, (("device_id", str(device)), limit, *OPTIONS))


def check_build(available: Sequence[str] | None = None) -> None:
    """Whether this ONNX Runtime was built for CUDA; ``available``: its providers.

    Raises:
        InvalidRequestError: it was not.
    """
    if CUDA not in (onnxruntime.get_available_providers() if available is None else available):
        raise InvalidRequestError(
            f"this ONNX Runtime ({onnxruntime.__version__}) was built without CUDA: pip uninstall onnxruntime, and "
            "pip install onnxruntime-gpu in its place; or use --device cpu"
        )


def load_libraries(preload: Callable[[], Any]) -> str:
    """Load the libraries of CUDA and cuDNN that pip has installed; what it says of those that are not there."""
    out = StringIO()
    with redirect_stdout(out):  # it prints
        preload()
    return out.getvalue().partition("\n")[0].strip()


def make_arena(device: int, nbytes: Bytes) -> None:
    """The memory that all sessions of a device share. Raises one of `FAILURES`; also if there is one already."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cuda", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, device, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator_v2(
        CUDA, memory, {"device_id": str(device)}, onnxruntime.OrtArenaCfg(arena(nbytes))
    )


def arena(nbytes: Bytes) -> dict[str, int]:
    """Its options (``OrtArenaCfg``)."""
    region = min(REGION, nbytes)
    return {
        "max_mem": nbytes,
        "arena_extend_strategy": 0,  # regions of the size below, or of a power of two times it
        "initial_chunk_size_bytes": region,
        "max_power_of_two_extend_bytes": region,
        "max_dead_bytes_per_chunk": DEAD_MAX,
    }


def nodes_on_cpu(assigned: Any) -> str:
    """``3 of 120 nodes on the CPU: NonZero, Shape``; empty if all are on the device, or if nothing is known.

    ``assigned``: a session's ``get_provider_graph_assignment_info()``.
    """
    total, here, kinds = 0, 0, set[str]()
    for part in assigned:
        nodes = part.get_nodes()
        total += len(nodes)
        if part.ep_name == "CPUExecutionProvider":
            here += len(nodes)
            kinds.update(node.op_type for node in nodes)
    return f"{here} of {total} nodes on the CPU: {', '.join(sorted(kinds))}" if here else ""
