"""``clockwork worker``: a worker alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from clockwork.cli.configuration import ConfigFile, only_checked
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
from clockwork.net.address import DEFAULT_WORKER_LISTEN, Address
from clockwork.units import GIB, MIB, Bytes

if TYPE_CHECKING:
    from clockwork.host.worker import WorkerConfig

EXAMPLES: Final = examples(
    "clockwork worker --model-root /models",
    "clockwork worker --emulate 8 --profile resnet50-v100",
    "clockwork worker --controller controller.example:12345 --model-root /models --devices 4 --cache-size 8GiB",
)


def worker(
    controller: Annotated[
        Address,
        typer.Option(
            parser=worker_address,
            metavar="HOST:PORT",
            show_default=str(DEFAULT_WORKER_LISTEN),
            help="Where the controller listens for workers.",
        ),
    ] = DEFAULT_WORKER_LISTEN,
    name: Annotated[
        str,
        typer.Option(show_default="the host's name and the process's number", help="Unlike that of any other worker."),
    ] = "",
    model_root: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Models are read below this directory only.")
    ] = Path(),
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    cache_size: CacheSize = None,
    page_size: PageSize = 16 * MIB,
    model_cache: ModelCache = None,
    model_cache_size: ModelCacheSize = 32 * GIB,
    emulate: Emulate = None,
    profile: Profile = None,
    log_level: LogLevel = "info",
    config_file: ConfigFile = None,
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run a worker: it executes what its controller orders, and dials again when the controller restarts.

    Ctrl-C or SIGTERM ends it as soon as what it executes is done.
    """
    from clockwork.cli.emulating import check_emulated
    from clockwork.cli.lifecycle import Ending, end_with_parent, start_log, until_stopped

    if exit_with_parent:
        end_with_parent()

    import uvloop
    from rich.console import Console

    from clockwork.host.worker import WorkerConfig, WorkerHost, default_name, run_emulated, run_worker

    ending = Ending()

    def on_host(host: WorkerHost) -> None:
        ending.first(host.leave)

    name = name or default_name()
    check_emulated(emulate, profile)
    root = model_root.absolute()
    config = WorkerConfig(root, controller, name, devices, threads_per_device, cache_size, page_size)
    if only_checked():
        check_worker(emulate, profile, cache_size, config)
        return
    start_log(log_level, Console(stderr=True))
    if emulate:
        from clockwork.cli.emulating import emulated_models, pages

        emulated = emulated_models(profile).values()
        running = run_emulated(controller, name, emulated, emulate, pages(cache_size), on_host=on_host)
        uvloop.run(until_stopped(running, ending))
        return

    from clockwork.runtimes.onnx import OnnxRuntime

    runtime = OnnxRuntime(threads_per_device, model_cache, model_cache_size)
    uvloop.run(until_stopped(run_worker(config, runtime, on_host), ending))


def check_worker(
    emulate: int | None, profile: list[str] | None, cache_size: Bytes | None, config: "WorkerConfig"
) -> None:
    """Whether a worker of that kind could begin, as far as that can be seen without beginning.

    Raises:
        InvalidRequestError, typer.BadParameter: why it could not.
    """
    from clockwork.cli.emulating import emulated_models, pages

    if emulate:
        emulated_models(profile)
        pages(cache_size)
    else:
        config.pages()
