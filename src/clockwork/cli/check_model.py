"""``clockwork check-model``: what a model takes, gives and costs, without a server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from clockwork.cli.devices import DeviceKind, DeviceOptions, make_runtime_on_gpus, runtime_on_gpus
from clockwork.cli.options import AllowBatching, AsJson, MaxBatch, NoBatching, ThreadsPerDevice, examples
from clockwork.cli.runtimes import AllowCompiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clockwork.messages.tensors import TensorSpec
    from clockwork.runtimes.base import HostModel, HostModelInfo, LoadedModel, Runtime
    from clockwork.runtimes.batching import BatchingOptions
    from clockwork.units import Nanos

EXAMPLES: Final = examples(
    "clockwork check-model models/resnet50.onnx",
    "clockwork check-model resnet.pt2",
    "clockwork check-model resnet.pt2 --device cuda",
    "clockwork check-model models/bert/1/model.onnx --free-dim 64 --max-batch 4 --json",
)

SAMPLES: Final = 10
"""At most so many of each measurement are taken."""

BUDGET: Final = 1.0
"""Seconds for each measurement, but not fewer than three samples."""


def check_model(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A .onnx or .pt2 file, or a directory of one.", show_default=False)
    ],
    max_batch: MaxBatch = 16,
    device: DeviceKind = "cpu",
    threads_per_device: ThreadsPerDevice = 1,
    allow_compiled: AllowCompiled = False,
    no_batching: NoBatching = None,
    allow_batching: AllowBatching = None,
    free_dim: Annotated[int, typer.Option(min=1, help="Free dimensions other than the batch are this long.")] = 128,
    json: AsJson = False,
) -> None:
    """Load a model and run it: its inputs, outputs and weights, the time to load, and the time for each batch size.

    Nothing is served, and no server is asked. The inputs are zeros. The model's name, for --no-batching and
    --allow-batching, is the one that serve would give it.
    """
    from clockwork.cli.output import show, show_json, table
    from clockwork.clock import MonotonicClock
    from clockwork.controller.naming import model_name_from_path
    from clockwork.runtimes.batching import batching_options
    from clockwork.units import show_bytes, show_duration

    batching = batching_options(no_batching, allow_batching)
    runtime = runtime_for(path, device, threads_per_device, max_batch, allow_compiled, batching)
    start = MonotonicClock.now()
    model = runtime.load_model(path.absolute(), model_name_from_path(str(path.absolute())))
    reading = MonotonicClock.now() - start
    loading = measure_loads(model)
    times = dict(measure_batches(model, max_batch, free_dim))
    info = model.info
    if json:
        facts = {
            "info": info,
            "device_kind": runtime.device_kind,
            "read": reading,
            "load_weights": loading,
            "infer": times,
        }
        show_json(facts)
        return
    rows = [
        (size, show_duration(it.median), show_duration(it.p99), f"{size * 1e9 / it.median:,.0f}")
        for size, it in times.items()
    ]
    show(
        f"{path}: {info.runtime}, {runtime.device_kind}",
        *(f"  input    {it.describe()}" for it in info.inputs),
        *(f"  output   {it.describe()}" for it in info.outputs),
        f"  weights  {show_bytes(info.weights_bytes)}",
        f"  batches  {'yes' if info.batchable else f'no: {info.unbatched}'}",
        f"  digest   {info.digest}",
        *([f"  note     {info.note}"] if info.note else []),
        f"  from disk to host memory {show_duration(reading)}, to the device {show_duration(loading.median)}",
        table("", (">batch size", ">p50", ">p99", ">rows/s"), rows),
    )


def runtime_for(
    path: Path,
    device: str,
    threads_per_device: int,
    max_batch: int,
    allow_compiled: bool = False,
    batching: "BatchingOptions | None" = None,
) -> "Runtime":
    """What executes the model on one device.

    Raises:
        InvalidRequestError, typer.BadParameter: there is no such device, or nothing that could.
    """
    from clockwork.cli.runtimes import make_runtime
    from clockwork.host.worker import PAGE_SIZE

    options = DeviceOptions(device)
    options.check(threads_per_device)
    if not options.on_gpus:
        return make_runtime("auto", threads_per_device, allow_compiled=allow_compiled, batching=batching)
    name = runtime_on_gpus("auto", [path])
    return make_runtime_on_gpus(name, 1, options, None, PAGE_SIZE, max_batch, batching=batching)[0]


def measure_loads(model: "HostModel") -> "Any":
    """The time of LoadWeights, as a `clockwork.messages.profile.Measurement`."""
    from clockwork.clock import MonotonicClock
    from clockwork.messages.profile import Measurement

    samples: list[Nanos] = []
    while _wants_more(samples):
        start = MonotonicClock.now()
        loaded = model.load_weights(0)
        samples.append(MonotonicClock.now() - start)
        loaded.close()
    return Measurement(tuple(samples))


def measure_batches(model: "HostModel", max_batch: int, free_dim: int) -> "Iterator[tuple[int, Any]]":
    """The time of an inference for each batch size: the powers of two, or 1 for a model that does not batch."""
    from clockwork.messages.actions import InferInput
    from clockwork.messages.profile import Measurement

    loaded = model.load_weights(0)
    size = 1
    largest = min(max_batch, model.info.max_batch or max_batch) if model.info.batchable else 1
    while size <= largest:
        tensors = tuple(_zeros(model.info, size, free_dim))
        share = InferInput(0, size, tensors, generated=True)
        yield size, Measurement(tuple(_measure_batch(loaded, share)))
        size *= 2
    loaded.close()


def _zeros(info: "HostModelInfo", batch_size: int, free_dim: int) -> "Iterator[TensorSpec]":
    from math import prod

    from clockwork.messages.tensors import ELEMENT_BYTES, TensorSpec

    for it in info.inputs:
        shape = tuple(free_dim if dim < 0 else dim for dim in it.shape)
        shape = (batch_size, *shape[1:]) if info.batchable else shape
        yield TensorSpec(it.name, it.datatype, shape, prod(shape) * ELEMENT_BYTES.get(it.datatype, 0))


def _measure_batch(loaded: "LoadedModel", share: "Any") -> "list[Nanos]":
    from clockwork.clock import MonotonicClock

    batch = loaded.assemble([share], [None])
    loaded.execute(batch)  # the first is not like the others
    samples: list[Nanos] = []
    while _wants_more(samples):
        start = MonotonicClock.now()
        loaded.execute(batch)
        samples.append(MonotonicClock.now() - start)
    return samples


def _wants_more(samples: "list[Nanos]") -> bool:
    from clockwork.units import seconds

    return len(samples) < 3 or (len(samples) < SAMPLES and sum(samples) < seconds(BUDGET))
