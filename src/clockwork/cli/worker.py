"""``clockwork worker``: a worker alone."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from clockwork.cli.configuration import ConfigFile, only_checked
from clockwork.cli.devices import (
    DeviceKind,
    DeviceOptions,
    IoSize,
    PinnedSize,
    WorkspaceSize,
    make_runtime_on_gpus,
    runtime_on_gpus,
)
from clockwork.cli.options import (
    AllowBatching,
    CacheSize,
    Devices,
    Emulate,
    LogFormat,
    LogLevel,
    MaxBatch,
    ModelCache,
    ModelCacheSize,
    NoBatching,
    PageSize,
    Profile,
    ThreadsPerDevice,
    examples,
    worker_address,
)
from clockwork.cli.runtimes import AllowCompiled, RuntimeName
from clockwork.cli.security import WorkerOwnTlsCa, WorkerOwnTlsCert, WorkerOwnTlsKey, WorkerOwnTokenFile
from clockwork.net.address import DEFAULT_WORKER_LISTEN, Address
from clockwork.units import GIB, MIB, Bytes

if TYPE_CHECKING:
    from clockwork.host.worker import OnHost, WorkerConfig

EXAMPLES: Final = examples(
    "clockwork worker --model-root /models",
    "clockwork worker --emulate 8 --profile resnet50-v100",
    "clockwork worker --device cuda --devices 2 --runtime torch --model-root /models",
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
    device: DeviceKind = "cpu",
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    runtime: RuntimeName = "auto",
    allow_compiled: AllowCompiled = False,
    cache_size: CacheSize = None,
    page_size: PageSize = 16 * MIB,
    pinned_size: PinnedSize = None,
    workspace_size: WorkspaceSize = None,
    io_size: IoSize = None,
    max_batch: MaxBatch = 16,
    no_batching: NoBatching = None,
    allow_batching: AllowBatching = None,
    model_cache: ModelCache = None,
    model_cache_size: ModelCacheSize = 32 * GIB,
    emulate: Emulate = None,
    profile: Profile = None,
    tls_cert: WorkerOwnTlsCert = None,
    tls_key: WorkerOwnTlsKey = None,
    tls_ca: WorkerOwnTlsCa = None,
    token_file: WorkerOwnTokenFile = None,
    log_level: LogLevel = "info",
    config_file: ConfigFile = None,
    log_format: LogFormat = "human",
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
    payload_descriptor: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a worker: it executes what its controller orders, and dials again when the controller restarts.

    Ctrl-C or SIGTERM ends it as soon as what it executes is done.
    """
    from clockwork.cli.emulating import check_emulated
    from clockwork.cli.lifecycle import end_with_parent, start_log
    from clockwork.cli.security import worker_link

    if exit_with_parent:
        end_with_parent()

    from clockwork.host.arena import Window
    from clockwork.host.worker import WorkerConfig, default_name, run_emulated, run_worker

    name = name or default_name()
    check_emulated(emulate, profile)
    options = DeviceOptions(device, pinned_size, workspace_size, io_size)
    options.check(threads_per_device, bool(emulate))
    if options.on_gpus:
        runtime = runtime_on_gpus(runtime, [])
        options.check_runtime(runtime)
    root = model_root.absolute()
    tls, token = worker_link(tls_cert, tls_key, tls_ca, token_file)
    window = None if payload_descriptor is None else Window(payload_descriptor)
    config = WorkerConfig(
        root, controller, name, devices, threads_per_device, cache_size, page_size, tls=tls, token=token, window=window
    )
    if only_checked():
        if not options.on_gpus:
            check_worker(emulate, profile, cache_size, config)
        return
    start_log(log_level, log_format)
    from clockwork.runtimes.batching import batching_options

    batching = batching_options(no_batching, allow_batching)
    if emulate:
        from clockwork.cli.emulating import emulated_models, pages

        emulated, cache = emulated_models(profile).values(), pages(cache_size)
        link = partial(run_emulated, controller, name, emulated, emulate, cache, tls=tls, token=token, window=window)
        _run(lambda on_host: link(on_host=on_host))
    elif options.on_gpus:
        kept = (model_cache, model_cache_size)
        on_gpus, cache_bytes = make_runtime_on_gpus(
            runtime, devices, options, cache_size, page_size, max_batch, kept, batching
        )
        config = replace(config, cache_bytes=cache_bytes)
        _run(lambda on_host: run_worker(config, on_gpus, on_host))
    else:
        from clockwork.cli.runtimes import make_runtime

        made = make_runtime(runtime, threads_per_device, model_cache, model_cache_size, allow_compiled, batching)
        _run(lambda on_host: run_worker(config, made, on_host))


def _run(make: "Callable[[OnHost], Coroutine[Any, Any, None]]") -> None:
    """Run a worker until a signal asks to end; then it leaves."""
    import uvloop

    from clockwork.cli.lifecycle import Ending, until_stopped

    ending = Ending()
    uvloop.run(until_stopped(make(lambda host: ending.first(host.leave)), ending))


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
