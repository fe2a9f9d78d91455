"""What devices are made of: ``--device``, and the sizes that only GPUs have.

Rules of the file: all memory of a GPU goes to one runtime, because a weights cache is one account of it; which one is
known before a worker begins. Libraries of NVIDIA are imported by whom they are for.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer
from msgspec import Struct

from clockwork.cli.options import size
from clockwork.units import Bytes

if TYPE_CHECKING:
    from clockwork.runtimes.base import Runtime
    from clockwork.runtimes.batching import BatchingOptions

KINDS: Final = ("cpu", "cuda")

PINNED_SHARE: Final = 0.5
"""The part of the available host memory that weights may be pinned in, if nothing was said."""


def device_kind(value: str) -> str:
    """One of `KINDS`."""
    if value not in KINDS:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(KINDS)}")
    return value


def size_or_nothing(value: str | int) -> Bytes:
    """As `size`, and 0."""
    return 0 if str(value).strip() == "0" else size(value)


DeviceKind: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device", parser=device_kind, metavar="KIND", help="What devices are: cpu (cores), or cuda (NVIDIA's GPUs)."
    ),
]
PinnedSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--pinned-size",
        parser=size_or_nothing,
        metavar="SIZE",
        show_default="half of the memory that is free",
        help="With --device cuda and PyTorch: host memory that weights may be pinned in, for quick copies; 0: none.",
    ),
]
WorkspaceSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--workspace-size",
        parser=size,
        metavar="SIZE",
        show_default="2GiB",
        help="With --device cuda: memory of each GPU that inferences compute in.",
    ),
]
IoSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--io-size",
        parser=size,
        metavar="SIZE",
        show_default="512MiB",
        help="With --device cuda and PyTorch: memory of each GPU, and of the host, for inputs and outputs.",
    ),
]


class DeviceOptions(Struct, frozen=True):
    """What was said of devices; sizes are None where nothing was said."""

    kind: str = "cpu"
    pinned: Bytes | None = None
    workspace: Bytes | None = None
    io: Bytes | None = None

    @property
    def on_gpus(self) -> bool:
        """Whether devices are GPUs."""
        return self.kind == "cuda"

    def check(self, threads_per_device: int = 1, emulated: bool = False) -> None:
        """Whether the options go together.

        Raises:
            typer.BadParameter: they do not.
        """
        if not self.on_gpus:
            if said := self._sizes():
                raise typer.BadParameter(
                    "CPU devices have no such memory: leave it out, or say --device cuda", param_hint=next(iter(said))
                )
            return
        if emulated:
            raise typer.BadParameter(
                "emulated devices are no GPUs: leave out --device or --emulate", param_hint="--device"
            )
        if threads_per_device != 1:
            raise typer.BadParameter(
                f"a GPU is waited for by one thread, and {threads_per_device} were asked for: leave it out",
                param_hint="--threads-per-device",
            )

    def check_runtime(self, name: str) -> None:
        """Whether a runtime has all that was said.

        Raises:
            typer.BadParameter: it has not.
        """
        for option in self._sizes():
            if name == "onnx" and option != "--workspace-size":
                raise typer.BadParameter("ONNX Runtime has no such memory of its own: leave it out", param_hint=option)

    def arguments(self) -> list[str]:
        """The options of a worker that say the same."""
        return [f"--device={self.kind}", *(f"{name}={value}" for name, value in self._sizes().items())]

    def _sizes(self) -> dict[str, Bytes]:
        """Those that were said, by their options."""
        sizes = {"--pinned-size": self.pinned, "--workspace-size": self.workspace, "--io-size": self.io}
        return {name: value for name, value in sizes.items() if value is not None}


def runtime_on_gpus(name: str, paths: Iterable[Path]) -> str:
    """The runtime that executes these models on GPUs: that which ``--runtime`` names, or for ``auto`` that of all.

    Raises:
        typer.BadParameter: they need two; or it cannot be known, because there are no models yet.
    """
    from clockwork.runtimes.by_file import is_program

    if name != "auto":
        return name
    found = sorted({"torch" if is_program(path) else "onnx" for path in paths})
    if len(found) == 1:
        return found[0]
    why = "these models need both" if found else "a worker does not know its models when it begins"
    raise typer.BadParameter(
        f"all memory of a GPU goes to one runtime, and {why}: say onnx or torch, and run a worker for each",
        param_hint="--runtime",
    )


def make_runtime_on_gpus(
    name: str,
    devices: int,
    its: DeviceOptions,
    cache_size: Bytes | None,
    page_size: Bytes,
    max_batch: int,
    model_cache: tuple[Path | None, Bytes | None] = (None, None),
    batching: "BatchingOptions | None" = None,
) -> "tuple[Runtime, Bytes]":
    """The runtime for GPUs, with all of their memory, and the weights cache of each.

    Raises:
        InvalidRequestError: it is not installed, or there are no such GPUs.
    """
    from clockwork.cli.caches import give_libraries_a_cache

    give_libraries_a_cache()
    if name == "onnx":
        from clockwork.runtimes import nvidia
        from clockwork.runtimes.onnx.cuda import WORKSPACE_BYTES, OnnxCudaRuntime, cache_bytes_of
        from clockwork.runtimes.onnx.gpus import CudaGpus, check_build

        check_build()
        gpus = nvidia.check(nvidia.look(), devices)
        workspace = WORKSPACE_BYTES if its.workspace is None else its.workspace
        cache = cache_bytes_of(gpus, workspace, page_size) if cache_size is None else cache_size
        onnx = OnnxCudaRuntime(CudaGpus(devices, gpus[0].name), cache, workspace, *model_cache, batching)
        return onnx, onnx.cache_bytes

    from clockwork.cli.runtimes import check_torch

    check_torch()
    from clockwork.host.sizing import available_bytes
    from clockwork.runtimes.torch.cuda.runtime import CudaRuntime

    pinned = int(available_bytes() * PINNED_SHARE) if its.pinned is None else its.pinned
    sizes = {"workspace_bytes": its.workspace, "io_bytes": its.io}
    given: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    torch = CudaRuntime(devices, page_size, cache_size, pinned, max_batch=max_batch, batching=batching, **given)
    return torch, torch.cache_bytes
