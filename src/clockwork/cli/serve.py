"""``clockwork serve``: a controller, and a worker on this machine, in one command."""

from pathlib import Path
from typing import Annotated, Final

import typer

from clockwork.cli.options import (
    CacheSize,
    DefaultSlo,
    Devices,
    Listen,
    LogLevel,
    MaxBatch,
    ModelCache,
    NoProfileCache,
    PageSize,
    ProfileCache,
    ProfileSeconds,
    SchedulerName,
    ThreadsPerDevice,
    examples,
)
from clockwork.net.address import DEFAULT_LISTEN, Address
from clockwork.units import MIB, MILLISECOND

EXAMPLES: Final = examples(
    "clockwork serve models/resnet50.onnx",
    "clockwork serve a.onnx second=b.onnx c.onnx:20     a, second, and twenty copies c-1 to c-20",
    "clockwork serve models/*.onnx --devices 2 --cache-size 1GiB --listen 0.0.0.0:12346",
)


def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODELS...", help="Each PATH, NAME=PATH, PATH:COPIES or NAME=PATH:COPIES.", show_default=False),
    ],
    listen: Listen = DEFAULT_LISTEN,
    scheduler: SchedulerName = "simple",
    slo: DefaultSlo = 100 * MILLISECOND,
    copies: Annotated[int, typer.Option(min=1, help="Copies of each model that does not say how many.")] = 1,
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    cache_size: CacheSize = None,
    page_size: PageSize = 16 * MIB,
    model_root: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, show_default="the innermost directory that contains all models",
            help="The worker reads below this directory only.",
        ),
    ] = None,
    model_cache: ModelCache = None,
    profile_cache: ProfileCache = None,
    no_profile_cache: NoProfileCache = False,
    max_batch: MaxBatch = 16,
    profile_seconds: ProfileSeconds = 1.0,
    log_level: LogLevel = "info",
) -> None:  # fmt: skip
    """Serve models from this machine: a controller and a worker in one command.

    The models may lie anywhere. They are loaded, measured unless their times are known, and served until Ctrl-C or
    SIGTERM; when serving begins, "clockwork is serving N models on HOST:PORT" is printed.

    The worker is a process of its own. It is started again if it dies, and ends when this command does.
    """
    import uvloop
    from rich.console import Console

    from clockwork.cli.child import Child, this_program
    from clockwork.cli.given import common_root, load_specs, parse_model
    from clockwork.cli.hosting import listening, profile_directory, profiling, together
    from clockwork.cli.lifecycle import start_log, until_stopped
    from clockwork.cli.startup import show_startup
    from clockwork.controller.config import ControllerConfig
    from clockwork.host.affinity import allowed_cores, confined, plan_cores
    from clockwork.host.controller import ControllerHostConfig
    from clockwork.scheduling.registry import make_scheduler

    given = [parse_model(text, copies) for text in models]
    root = common_root(given) if model_root is None else model_root.absolute()
    specs = load_specs(given, root)
    worker = [
        "worker", "--exit-with-parent", "--name=local", f"--model-root={root}", f"--devices={devices}",
        f"--threads-per-device={threads_per_device}", f"--page-size={page_size}", f"--log-level={log_level}",
    ]  # fmt: skip
    worker += [f"--cache-size={cache_size}"] if cache_size is not None else []
    worker += [f"--model-cache={model_cache.absolute()}"] if model_cache is not None else []
    config = ControllerHostConfig(
        listen,
        Address("127.0.0.1", 0),
        ControllerConfig(models=specs, default_slo=slo, profiling=profiling(max_batch, profile_seconds)),
        profile_directory(profile_cache, no_profile_cache),
    )
    policy = make_scheduler(scheduler)
    console = Console(stderr=True)
    start_log(log_level, console)
    cores = allowed_cores()

    async def work() -> None:
        async with listening(config, policy) as host:
            child = Child(this_program(*worker, f"--controller={host.worker_address}"), cores)
            await together(host.wait(), child.keep(), show_startup(host, console))

    with confined(plan_cores(cores, devices, threads_per_device).others):  # off the devices' cores, as the worker is
        uvloop.run(until_stopped(work()))
