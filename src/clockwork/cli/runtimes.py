"""Creates the runtimes and devices that ``--runtime`` and ``--device`` choose.

PyTorch and NVIDIA's libraries are optional dependencies. Such libraries are imported only when a runtime needs them.
`check_torch` looks for PyTorch without importing it. The weights cache of a GPU covers all free memory of the GPU, so
only one runtime can use a GPU. The runtime of a worker with GPUs must therefore be known before the worker starts.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from msgspec import Struct

from clockwork.units import Bytes

if TYPE_CHECKING:
    from clockwork.runtimes.base import Runtime
    from clockwork.runtimes.batching import BatchingOptions

HOW_TO_INSTALL: Final = "pip install 'torch>=2.9'"

PINNED_SHARE: Final = 0.5
"""Share of the free host memory that may be pinned for weights by default."""


class DeviceOptions(Struct, frozen=True):
    """The kind of the devices, and the sizes of memory areas on GPUs. A size is None if its option is not given."""

    kind: str = "cpu"
    pinned: Bytes | None = None
    workspace: Bytes | None = None
    io: Bytes | None = None

    @property
    def on_gpus(self) -> bool:
        """Whether the devices are GPUs instead of CPU cores."""
        return self.kind == "cuda"

    def check(self, threads_per_device: int = 1, emulated: bool = False) -> None:
        """Check that no two options contradict each other.

        Raises:
            typer.BadParameter: two options contradict each other.
        """
        if not self.on_gpus:
            if sizes := self._sizes():
                option = next(iter(sizes))
                raise typer.BadParameter(f"{option} needs --device cuda", param_hint=option)
            return
        if emulated:
            raise typer.BadParameter(
                "emulated devices are not GPUs; leave out --device or --emulate", param_hint="--device"
            )
        if threads_per_device != 1:
            raise typer.BadParameter(
                f"{threads_per_device} threads per device are not possible on GPUs; leave out the option",
                param_hint="--threads-per-device",
            )

    def check_runtime(self, name: str) -> None:
        """Check that the chosen runtime uses all sizes that the command line sets.

        Raises:
            typer.BadParameter: the runtime would ignore one of the sizes.
        """
        for option in self._sizes():
            if name == "onnx" and option != "--workspace-size":
                raise typer.BadParameter(
                    f"{option} has no effect on ONNX Runtime; leave out the option", param_hint=option
                )

    def arguments(self) -> list[str]:
        """Return the same options as arguments of ``clockwork worker``."""
        return [f"--device={self.kind}", *(f"{name}={value}" for name, value in self._sizes().items())]

    def _sizes(self) -> dict[str, Bytes]:
        """Return the sizes that the command line sets, by the option's name."""
        sizes = {"--pinned-size": self.pinned, "--workspace-size": self.workspace, "--io-size": self.io}
        return {name: value for name, value in sizes.items() if value is not None}


def check_torch() -> None:
    """Check that PyTorch is installed.

    Raises:
        InvalidRequestError: PyTorch is not installed.
    """
    from clockwork.errors import InvalidRequestError

    if find_spec("torch") is None:
        raise InvalidRequestError(f"PyTorch is not installed; run: {HOW_TO_INSTALL}")


def make_runtime(
    name: str,
    threads: int,
    *,
    model_cache: Path | None = None,
    model_cache_size: Bytes | None = None,
    allow_compiled: bool = False,
    batching: "BatchingOptions | None" = None,
) -> "Runtime":
    """Return the runtime for CPU devices whose name is the value of ``--runtime``.

    ``model_cache`` is the directory for ONNX Runtime's optimised models. If ``allow_compiled`` is true, PyTorch
    programs may contain compiled code.

    Raises:
        InvalidRequestError: the runtime is not installed.
    """
    from clockwork.errors import InvalidModelError
    from clockwork.runtimes.by_file import RuntimeByFile

    def torch() -> "Runtime":
        check_torch()
        from clockwork.runtimes.torch import TorchRuntime

        return TorchRuntime(threads, allow_compiled, batching)

    def torch_for_a_model() -> "Runtime":
        if find_spec("torch") is None:
            raise InvalidModelError(
                f"the model is a PyTorch program, and PyTorch is not installed on the worker; run: {HOW_TO_INSTALL}"
            )
        return torch()

    if name == "torch":
        return torch()
    from clockwork.runtimes.onnx import OnnxRuntime

    onnx = OnnxRuntime(threads, model_cache, model_cache_size, batching)
    return onnx if name == "onnx" else RuntimeByFile(onnx, torch_for_a_model)


def runtime_on_gpus(name: str, paths: Iterable[Path]) -> str:
    """Return the name of the runtime for models on GPUs.

    If ``name`` is ``auto``, the result is the runtime that can execute all models at ``paths``.

    Raises:
        typer.BadParameter: the models need two runtimes, or ``paths`` is empty and ``name`` is ``auto``.
    """
    from clockwork.runtimes.by_file import is_program

    if name != "auto":
        return name
    found = sorted({"torch" if is_program(path) else "onnx" for path in paths})
    if len(found) == 1:
        return found[0]
    why = "these models need both" if found else "a worker does not know its models when it starts"
    raise typer.BadParameter(
        f"one runtime uses all memory of a GPU, and {why}; give onnx or torch, and run one worker for each",
        param_hint="--runtime",
    )


def make_runtime_on_gpus(
    name: str,
    devices: int,
    options: DeviceOptions,
    *,
    cache_size: Bytes | None,
    page_size: Bytes,
    max_batch: int,
    model_cache: Path | None = None,
    model_cache_size: Bytes | None = None,
    batching: "BatchingOptions | None" = None,
) -> "tuple[Runtime, Bytes]":
    """Return the runtime for GPUs, and the size of each GPU's weights cache. The runtime uses all memory of the GPUs.

    Raises:
        InvalidRequestError: the runtime is not installed, or the GPUs do not exist.
    """
    from clockwork.cli.process import set_library_caches

    set_library_caches()
    if name == "onnx":
        from clockwork.runtimes import nvidia
        from clockwork.runtimes.onnx.cuda import DEFAULT_WORKSPACE_BYTES, OnnxCudaRuntime, cache_bytes_of
        from clockwork.runtimes.onnx.gpus import CudaGpus, check_build

        check_build()
        gpus = nvidia.check(nvidia.find_gpus(), devices)
        workspace = DEFAULT_WORKSPACE_BYTES if options.workspace is None else options.workspace
        cache = cache_bytes_of(gpus, workspace, page_size) if cache_size is None else cache_size
        onnx = OnnxCudaRuntime(
            CudaGpus(devices, gpus[0].name),
            cache_bytes=cache,
            workspace_bytes=workspace,
            cache_dir=model_cache,
            cache_dir_bytes=model_cache_size,
            batching=batching,
        )
        return onnx, onnx.cache_bytes

    check_torch()
    from clockwork.host.cache_size import available_bytes
    from clockwork.runtimes.torch.cuda.runtime import CudaRuntime

    pinned = int(available_bytes() * PINNED_SHARE) if options.pinned is None else options.pinned
    sizes = {"workspace_bytes": options.workspace, "io_bytes": options.io}
    given_sizes: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    torch = CudaRuntime(devices, page_size, cache_size, pinned, max_batch=max_batch, batching=batching, **given_sizes)
    return torch, torch.cache_bytes
