"""``clockwork worker``: a worker alone."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli.options import (
    CacheSize,
    Devices,
    Emulate,
    LogLevel,
    ModelCache,
    ModelCacheSize,
    PageSize,
    Profile,
    ThreadsPerDevice,
    examples,
    worker_address,
)
from clockwork.cli.security import WorkerOwnTlsCa, WorkerOwnTlsCert, WorkerOwnTlsKey, WorkerOwnTokenFile
from clockwork.net.address import DEFAULT_WORKER_LISTEN, Address
from clockwork.units import GIB, MIB

EXAMPLES: Final = examples(
    "clockwork worker --model-root /models",
    "clockwork worker --emulate 8 --profile resnet50-v100",
    "clockwork worker --controller controller.example:12345 --model-root /models --devices 4 --cache-size 8GiB",
)


Controller: TypeAlias = Annotated[
    Address,
    typer.Option(
        parser=worker_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_WORKER_LISTEN),
        help="Where the controller listens for workers.",
    ),
]
Name: TypeAlias = Annotated[
    str,
    typer.Option(show_default="the host's name and the process's number", help="Unlike that of any other worker."),
]
ModelRoot: TypeAlias = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Models are read below this directory only.")
]


def worker(
    controller: Controller = DEFAULT_WORKER_LISTEN,
    name: Name = "",
    model_root: ModelRoot = Path(),
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    cache_size: CacheSize = None,
    page_size: PageSize = 16 * MIB,
    model_cache: ModelCache = None,
    model_cache_size: ModelCacheSize = 32 * GIB,
    emulate: Emulate = None,
    profile: Profile = None,
    tls_cert: WorkerOwnTlsCert = None,
    tls_key: WorkerOwnTlsKey = None,
    tls_ca: WorkerOwnTlsCa = None,
    token_file: WorkerOwnTokenFile = None,
    log_level: LogLevel = "info",
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run a worker: it executes what its controller orders, and dials again when the controller restarts."""
    from clockwork.cli.emulating import check_emulated
    from clockwork.cli.lifecycle import end_with_parent, start_log, until_stopped
    from clockwork.cli.security import worker_link

    if exit_with_parent:
        end_with_parent()

    import uvloop
    from rich.console import Console

    from clockwork.host.worker import WorkerConfig, default_name, run_emulated, run_worker

    start_log(log_level, Console(stderr=True))
    name = name or default_name()
    check_emulated(emulate, profile)
    tls, token = worker_link(tls_cert, tls_key, tls_ca, token_file)
    if emulate:
        from clockwork.cli.emulating import emulated_models, pages

        emulated = emulated_models(profile).values()
        devices_run = run_emulated(controller, name, emulated, emulate, pages(cache_size), tls=tls, token=token)
        uvloop.run(until_stopped(devices_run))
        return

    from clockwork.runtimes.onnx import OnnxRuntime

    root = model_root.absolute()
    config = WorkerConfig(
        root, controller, name, devices, threads_per_device, cache_size, page_size, tls=tls, token=token
    )
    uvloop.run(until_stopped(run_worker(config, OnnxRuntime(threads_per_device, model_cache, model_cache_size))))
