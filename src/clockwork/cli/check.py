"""The commands ``clockwork check-env``, which checks a machine, and ``clockwork check-model``, which checks a model.

Both commands work without a server.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec.structs import replace

from clockwork.cli.controller_options import MaxBatch
from clockwork.cli.options import AsJson, examples
from clockwork.cli.runtimes import DeviceOptions, make_runtime, make_runtime_on_gpus, runtime_on_gpus
from clockwork.cli.worker_options import (
    AllowBatching,
    AllowCompiled,
    AllowLinksTo,
    DeviceKind,
    Devices,
    ModelShapes,
    NoBatching,
    ThreadsPerDevice,
)

if TYPE_CHECKING:
    from clockwork.cli.output import Listing
    from clockwork.host.model_check import CheckedModel
    from clockwork.messages.findings import Finding, Level
    from clockwork.runtimes.base import Runtime
    from clockwork.runtimes.batching import BatchingOptions

CHECK_ENV_EXAMPLES: Final = examples(
    "clockwork check-env",
    "clockwork check-env --devices 4 --seconds 10",
    "clockwork check-env --device cuda",
    "clockwork check-env --strict --json | jq .findings",
)
CHECK_MODEL_EXAMPLES: Final = examples(
    "clockwork check-model models/resnet50.onnx",
    "clockwork check-model resnet.pt2",
    "clockwork check-model resnet.pt2 --device cuda",
    "clockwork check-model models/bert/1/model.onnx --free-dim 64 --max-batch 4 --json",
    "clockwork check-model ocr.onnx --model-shape ocr:x=3x48x320",
)

MIN_SAMPLES: Final = 3
"""Smallest number of samples of each measurement."""

MAX_SAMPLES: Final = 10
"""Largest number of samples of each measurement."""

BUDGET: Final = 1.0
"""Time in seconds after which a measurement ends, if it has at least `MIN_SAMPLES` samples."""


# -------------------------------------------------------------------------------------------------- check-env


def check_env(
    device: DeviceKind = "cpu",
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1, max=600, help="Duration of the measurements. A longer duration finds rarer interruptions."
        ),
    ] = 2,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if there is a warning.")] = False,
    json: AsJson = False,
) -> None:
    """Check this machine for causes of timing jitter: cores, clocks, memory, limits, and interruptions of a thread.

    The output shows the cost of each finding and a fix. Run the command where the worker will run: in its container,
    with its cores, and under the usual load of the machine. The command changes nothing and needs no server.

    The exit code is 1 if a finding is bad. With --strict, the exit code is also 1 if there is a warning.
    """
    from clockwork.cli.output import show, show_json
    from clockwork.environment.checks import check
    from clockwork.environment.findings import worst
    from clockwork.environment.measurement import examine

    options = DeviceOptions(device)
    options.check(threads_per_device)
    environment = examine(devices, threads_per_device, seconds)
    if options.on_gpus:
        from clockwork.runtimes import nvidia

        environment = replace(environment, gpus=nvidia.find_gpus())
    findings = check(environment)
    if json:
        show_json({"worst": worst(findings), "findings": findings, "environment": environment})
    else:
        show(*describe_findings(findings))
    raise typer.Exit(exit_code(findings, strict))


def exit_code(findings: "Sequence[Finding]", strict: bool) -> int:
    """Return 1 if a finding is bad, else 0. If ``strict`` is true, also return 1 if there is a warning."""
    from clockwork.environment.findings import worst
    from clockwork.messages.findings import Level

    return int(worst(findings).rank >= (Level.WARNING if strict else Level.BAD).rank)


def describe_findings(findings: "Sequence[Finding]") -> "Iterable[Listing | str]":
    """Yield a table of all findings, then the cost and fix of each (worst first), then the number of each level."""
    from clockwork.cli.output import table
    from clockwork.environment.findings import disturbing
    from clockwork.messages.findings import Level

    rows = [(finding.name, finding.level, finding.found) for finding in findings]
    yield table("", ("check", "level", "found"), rows)
    yield ""
    for finding in disturbing(findings):
        yield f"{finding.name} ({finding.level}): {finding.cost}"
        if finding.fix:
            yield f"  fix: {finding.fix}"
    counts = [(level, sum(finding.level is level for finding in findings)) for level in reversed(Level)]
    yield ", ".join(_count(level, count) for level, count in counts if count)


def _count(level: "Level", count: int) -> str:
    """Return the number of findings of a level as text: ``2 bad``, ``1 warning`` or ``3 notes``."""
    return f"{count} {level}{'s' if count > 1 and level in ('warning', 'note') else ''}"


# ------------------------------------------------------------------------------------------------ check-model


def check_model(
    path: Annotated[
        Path,
        typer.Argument(exists=True, help="A .onnx or .pt2 file, or a directory that contains one.", show_default=False),
    ],
    max_batch: MaxBatch = 16,
    device: DeviceKind = "cpu",
    threads_per_device: ThreadsPerDevice = 1,
    allow_compiled: AllowCompiled = False,
    no_batching: NoBatching = None,
    allow_batching: AllowBatching = None,
    model_shape: ModelShapes = None,
    free_dim: Annotated[int, typer.Option(min=1, help="First size that is tried for free dimensions.")] = 128,
    allow_links_to: AllowLinksTo = None,
    json: AsJson = False,
) -> None:
    """Load and execute a model, and show its inputs, outputs and weights, and the times of its load and batch sizes.

    The command needs no server. The output shows the inputs with which the model was measured, and the inputs that the
    model refused. --no-batching, --allow-batching and --model-shape accept the name that serve would give the model.
    """
    from clockwork.cli.batch_limits import batch_limit
    from clockwork.cli.models import common_root, model_shapes, parse_model
    from clockwork.cli.output import show, show_json
    from clockwork.controller.config import ProfilingConfig
    from clockwork.host.model_check import check_model as check
    from clockwork.host.worker import PAGE_SIZE
    from clockwork.runtimes.batching import batching_options
    from clockwork.runtimes.links import LinkPolicy
    from clockwork.scheduling.fifo import FifoScheduler

    batching = batching_options(no_batching, allow_batching, model_shapes(model_shape), free_dim)
    runtime = _runtime_for(path, device, threads_per_device, max_batch, allow_compiled, batching)
    model = parse_model(str(path))
    runtime.links = LinkPolicy((path if path.is_dir() else path.parent,), tuple(allow_links_to or ()))
    profiling = ProfilingConfig(max_batch_size=max_batch)
    checked = check(runtime, common_root([model]), model.path, model.name, FifoScheduler(), profiling, PAGE_SIZE)
    if json:
        show_json(
            {
                "info": checked.description,
                "version": checked.info.version,
                "device_kind": runtime.device_kind,
                "read": checked.read_time,
                "load_weights": checked.profile.load_weights,
                "infer": checked.profile.infer,
                "batch_limit": batch_limit(checked.profile),
                "unmeasured": checked.profile.unmeasured,
            }
        )
    else:
        shown = str(path).encode(errors="backslashreplace").decode()
        headline = f"{shown}: {checked.description.runtime}, {runtime.device_kind}"
        show(headline, *_describe_model(checked))


def _describe_model(checked: "CheckedModel") -> "Iterator[Listing | str]":
    from clockwork.cli.batch_limits import batch_limit
    from clockwork.cli.output import table
    from clockwork.units import show_bytes, show_duration

    info, profile = checked.description, checked.profile
    yield from (f"  input    {tensor.describe()}" for tensor in info.inputs)
    yield from (f"  output   {tensor.describe()}" for tensor in info.outputs)
    yield f"  version  {checked.info.version}"
    yield f"  weights  {show_bytes(info.weights_bytes)}"
    yield f"  batches  {'yes' if info.batchable else f'no: {info.unbatched}'}"
    yield f"  digest   {info.digest}"
    if info.note:
        yield f"  note     {info.note}"
    loading = show_duration(profile.load_weights.median)
    yield f"  from disk to host memory {show_duration(checked.read_time)}, to the device {loading}"
    yield from _describe_example(checked)
    if profile.unmeasured:
        yield "  not measured yet: the first request that is executed will be the measurement (--unmeasured-cap)"
        return
    rows = [
        (size, show_duration(times.median), show_duration(times.p99), f"{size * 1e9 / times.median:,.0f}")
        for size, times in profile.infer.items()
    ]
    yield table("", (">batch size", ">p50", ">p99", ">rows/s"), rows)
    if info.batchable and (limit := batch_limit(profile)):
        yield limit


def _describe_example(checked: "CheckedModel") -> "Iterator[str]":
    """Yield lines about the inputs with which the model was measured, and about the inputs that the model refused."""
    example = checked.info.example
    if example is None:
        return
    yield from (f"  refused  {refused}" for refused in example.refused)
    if example.shapes:
        inputs = zip(checked.info.required_inputs, example.shapes, strict=True)
        shapes = ", ".join(replace(tensor, shape=shape).describe() for tensor, shape in inputs)
        yield f"  example  {shapes} ({example.source})"


def _runtime_for(
    path: Path,
    device: str,
    threads_per_device: int,
    max_batch: int,
    allow_compiled: bool,
    batching: "BatchingOptions",
) -> "Runtime":
    """Return a runtime with one device that executes the model.

    Raises:
        InvalidRequestError, typer.BadParameter: the device does not exist, or the runtime is not installed.
    """
    from clockwork.host.worker import PAGE_SIZE

    options = DeviceOptions(device)
    options.check(threads_per_device)
    if not options.on_gpus:
        return make_runtime("auto", threads_per_device, allow_compiled=allow_compiled, batching=batching)
    name = runtime_on_gpus("auto", [path])
    return make_runtime_on_gpus(
        name, 1, options, cache_size=None, page_size=PAGE_SIZE, max_batch=max_batch, batching=batching
    )[0]
