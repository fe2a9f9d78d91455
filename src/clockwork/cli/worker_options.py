"""Options of a worker, which ``serve``, ``worker`` and ``check-model`` share: devices, runtimes and models."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli.parsers import one_of, size, size_or_none, size_or_zero
from clockwork.paced.durations import MAX_FACTOR, MIN_FACTOR
from clockwork.units import Bytes

DEVICE_KINDS: Final = ("cpu", "cuda")
RUNTIMES: Final = ("auto", "onnx", "torch")

# ----------------------------------------------------------------------------------------------- devices

DeviceKind: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device",
        parser=one_of("kind of device", DEVICE_KINDS),
        metavar="KIND",
        help="Kind of devices: cpu (cores) or cuda (NVIDIA GPUs).",
    ),
]
Devices: TypeAlias = Annotated[
    int, typer.Option("--devices", min=1, max=64, help="Number of devices of the worker, each with its own cores.")
]
ThreadsPerDevice: TypeAlias = Annotated[
    int, typer.Option("--threads-per-device", min=1, max=1024, help="Number of threads that execute one inference.")
]
CacheSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--cache-size",
        parser=size,
        metavar="SIZE",
        show_default="from the free memory",
        help="Weights cache of each device, for example 2GiB.",
    ),
]
PageSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--page-size", parser=size, metavar="SIZE", show_default="16MiB", help="Size of a page of the weights cache."
    ),
]
PinnedSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--pinned-size",
        parser=size_or_zero,
        metavar="SIZE",
        show_default="half of the free memory",
        help="Limit on host memory for pinned weights, which are copied faster. With 0, no memory is pinned (--device "
        "cuda, PyTorch).",
    ),
]
WorkspaceSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--workspace-size",
        parser=size,
        metavar="SIZE",
        show_default="2GiB",
        help="Memory of each GPU for the intermediate results of inferences (--device cuda).",
    ),
]
IoSize: TypeAlias = Annotated[
    Bytes | None,
    typer.Option(
        "--io-size",
        parser=size,
        metavar="SIZE",
        show_default="512MiB",
        help="Memory of each GPU, and of the host, for inputs and outputs (--device cuda, PyTorch).",
    ),
]
PayloadMemory: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--payload-memory",
        parser=size_or_none,
        metavar="SIZE",
        show_default="64MiB",
        help="Size of the memory shared with the worker for large requests. With none, all requests use a socket.",
    ),
]
Emulate: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--emulate",
        min=1,
        max=1024,
        show_default=False,
        help="Number of devices to emulate. Emulated devices take the times of --profile and execute no models.",
    ),
]
EmulatedFactor: TypeAlias = Annotated[
    float,
    typer.Option(
        "--emulate-factor",
        min=MIN_FACTOR,
        max=MAX_FACTOR,
        metavar="FACTOR",
        help="Factor for all times of --profile. Devices with another factor than 1 are of a kind of their own.",
    ),
]
Profile: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="PROFILE",
        show_default=False,
        help="Profile for --emulate: resnet50-v100, resnet50-v100-startup, or a file from clockwork status --json. May "
        "be repeated.",
    ),
]

# ------------------------------------------------------------------------------------------------ models

RuntimeName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--runtime",
        parser=one_of("runtime", RUNTIMES),
        metavar="RUNTIME",
        help="Runtime that executes models: onnx, torch, or auto (PyTorch for .pt2 files, ONNX Runtime for others).",
    ),
]
AllowCompiled: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-compiled",
        help="Accept .pt2 files that contain compiled code (clockwork export --compile), and run that code.",
    ),
]
NoBatching: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--no-batching",
        metavar="NAME",
        show_default=False,
        help="Name of a model whose requests are never batched. May be repeated.",
    ),
]
ModelShapes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model-shape",
        metavar="NAME:INPUT=SHAPE",
        show_default=False,
        help="Shape of an input with which a model is measured, without the batch dimension: ocr:x=3x48x320 "
        "(docs/models.md); may be repeated.",
    ),
]
AllowLinksTo: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--allow-links-to",
        metavar="DIR",
        show_default=False,
        help="Directory to which links in a model's directory may point. May be repeated. Links in directories that "
        "the command line names may point anywhere.",
    ),
]
AllowBatching: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-batching",
        metavar="NAME",
        show_default=False,
        help="Name of a model to batch if a trial passes, even if its graph does not prove that this is correct "
        "(docs/batching.md). May be repeated.",
    ),
]
ReceivedModels: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--received-models",
        file_okay=False,
        metavar="DIR",
        show_default="in the cache directory",
        help="Directory for model files that the controller sends (--push-models of the controller).",
    ),
]
ReceivedModelsSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--received-models-size",
        parser=size,
        metavar="SIZE",
        show_default="32GiB",
        help="Largest size of --received-models. The least recently used models are deleted first.",
    ),
]
ModelCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--model-cache",
        file_okay=False,
        metavar="DIR",
        show_default="none",
        help="Directory for optimised models, each about as large as its file. They make later starts faster.",
    ),
]
ModelCacheSize: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--model-cache-size",
        parser=size,
        metavar="SIZE",
        show_default="32GiB",
        help="Largest size of --model-cache. The least recently used models are deleted first.",
    ),
]
