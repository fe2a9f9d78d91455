"""The command ``clockwork worker``, which runs a worker without a controller."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from clockwork.cli.address_report import AddressReport, ReportDescriptor
from clockwork.cli.configuration import ConfigFile, is_dry_run
from clockwork.cli.controller_options import MaxBatch
from clockwork.cli.options import LogFormat, LogLevel, examples
from clockwork.cli.parsers import health_address, worker_address
from clockwork.cli.runtimes import DeviceOptions, make_runtime, make_runtime_on_gpus, runtime_on_gpus
from clockwork.cli.security import WorkerTlsCa, WorkerTlsCert, WorkerTlsKey, WorkerTokenFile
from clockwork.cli.worker_options import (
    AllowBatching,
    AllowCompiled,
    AllowLinksTo,
    CacheSize,
    DeviceKind,
    Devices,
    Emulate,
    EmulatedFactor,
    IoSize,
    ModelCache,
    ModelCacheSize,
    ModelShapes,
    NoBatching,
    PageSize,
    PinnedSize,
    Profile,
    ReceivedModels,
    ReceivedModelsSize,
    RuntimeName,
    ThreadsPerDevice,
    WorkspaceSize,
)
from clockwork.net.address import DEFAULT_WORKER_LISTEN, Address
from clockwork.runtimes.links import LinkPolicy
from clockwork.units import GIB, MIB, Bytes

if TYPE_CHECKING:
    from clockwork.host.controller_file import FindController
    from clockwork.host.worker import EmulatedDevices, OnHost, WorkerConfig, WorkerHost
    from clockwork.messages.findings import Finding
    from clockwork.runtimes.base import Runtime

EXAMPLES: Final = examples(
    "clockwork worker --model-root /models",
    "clockwork worker --emulate 8 --profile resnet50-v100",
    "clockwork worker --device cuda --devices 2 --runtime torch --model-root /models",
    "clockwork worker --controller controller.example:12345 --model-root /models --devices 4 --cache-size 8GiB",
)


ControllerAddress: TypeAlias = Annotated[
    Address,
    typer.Option(
        parser=worker_address,
        metavar="HOST:PORT",
        show_default=str(DEFAULT_WORKER_LISTEN),
        help="Address where the controller listens for workers.",
    ),
]
Name: TypeAlias = Annotated[
    str,
    typer.Option(show_default="host name and process id", help="Name of this worker, unique among all workers."),
]
Health: TypeAlias = Annotated[
    Address | None,
    typer.Option(
        parser=health_address,
        metavar="HOST:PORT",
        show_default="none",
        help="Address of health checks over HTTP (/v2/health/live and /v2/health/ready); port 0 picks a free port.",
    ),
]
ModelRoot: TypeAlias = Annotated[
    Path,
    typer.Option(exists=True, file_okay=False, help="Directory of the models. The worker reads only files inside it."),
]


def worker(
    controller: ControllerAddress = DEFAULT_WORKER_LISTEN,
    name: Name = "",
    health: Health = None,
    model_root: ModelRoot = Path(),
    allow_links_to: AllowLinksTo = None,
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
    model_shape: ModelShapes = None,
    model_cache: ModelCache = None,
    model_cache_size: ModelCacheSize = 32 * GIB,
    received_models: ReceivedModels = None,
    received_models_size: ReceivedModelsSize = 32 * GIB,
    emulate: Emulate = None,
    emulate_factor: EmulatedFactor = 1.0,
    profile: Profile = None,
    tls_cert: WorkerTlsCert = None,
    tls_key: WorkerTlsKey = None,
    tls_ca: WorkerTlsCa = None,
    token_file: WorkerTokenFile = None,
    log_level: LogLevel = "info",
    config_file: ConfigFile = None,
    log_format: LogFormat = "human",
    named_directories: Annotated[list[Path] | None, typer.Option(hidden=True)] = None,
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
    payload_descriptor: Annotated[int | None, typer.Option(hidden=True)] = None,
    taken_core: Annotated[list[int] | None, typer.Option(hidden=True)] = None,
    claim_cores: Annotated[bool, typer.Option(hidden=True)] = False,
    controller_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    report_descriptor: ReportDescriptor = None,
) -> None:
    """Run a worker, which executes the actions of a controller. The worker connects again when the controller restarts.

    Ctrl-C or SIGTERM ends the worker as soon as the running actions have ended.
    """
    from clockwork.cli.logs import start_log
    from clockwork.cli.models import emulated_pages, model_shapes
    from clockwork.cli.process import end_with_parent
    from clockwork.cli.security import worker_link

    end_with_parent(exit_with_parent, "worker")
    from clockwork.host.arena import ArenaView
    from clockwork.host.worker import EmulatedDevices, WorkerConfig, default_name, run_worker

    _check_emulation(emulate, profile, emulate_factor)
    options = DeviceOptions(device, pinned_size, workspace_size, io_size)
    options.check(threads_per_device, bool(emulate))
    if options.on_gpus:
        runtime = runtime_on_gpus(runtime, [])
        options.check_runtime(runtime)
    tls, token = worker_link(tls_cert, tls_key, tls_ca, token_file)
    arena = None if payload_descriptor is None else ArenaView(payload_descriptor)
    find = controller if controller_file is None else _controller_in(controller_file)
    config = WorkerConfig(
        model_root=model_root.absolute(),
        controller=find,
        name=name or default_name(),
        devices=devices,
        threads_per_device=threads_per_device,
        cache_bytes=cache_size,
        page_size=page_size,
        tls=tls,
        token=token,
        arena=arena,
        taken_cores=tuple(taken_core or ()) if exit_with_parent and not claim_cores else None,
        received=None if exit_with_parent and not claim_cores else _received(received_models, received_models_size),
    )
    if is_dry_run():
        if not options.on_gpus:
            check_worker(emulate, profile, cache_size, config)
        return
    start_log(log_level, log_format)
    from clockwork.runtimes.batching import batching_options

    if emulate:
        emulated = EmulatedDevices(emulate, emulated_pages(cache_size), emulate_factor)
        _run(_emulated(find, config, profile, emulated), health, report_descriptor)
    else:
        executor, worker_config = _make_runtime(
            runtime,
            config,
            options,
            max_batch,
            allow_compiled,
            model_cache=model_cache,
            model_cache_size=model_cache_size,
            batching=batching_options(no_batching, allow_batching, model_shapes(model_shape)),
        )
        worker_config = replace(worker_config, findings=_findings(worker_config, options))
        executor.links = LinkPolicy(tuple(named_directories or ()), tuple(allow_links_to or ()))
        _run(lambda on_host: run_worker(worker_config, executor, on_host), health, report_descriptor)


def _check_emulation(emulate: int | None, profile: list[str] | None, factor: float) -> None:
    from clockwork.cli.models import check_emulated

    check_emulated(emulate, profile)
    if factor != 1.0 and not emulate:
        raise typer.BadParameter("--emulate-factor needs --emulate", param_hint="--emulate-factor")


def _controller_in(path: Path) -> "FindController":
    from clockwork.host.controller_file import ControllerFile

    return ControllerFile(path)


def _emulated(
    find: "FindController | Address", config: "WorkerConfig", profile: list[str] | None, devices: "EmulatedDevices"
) -> "Callable[[OnHost], Coroutine[Any, Any, None]]":
    """Return a function that runs a worker with emulated devices."""
    from clockwork.cli.models import emulated_models
    from clockwork.host.worker import run_emulated

    models = emulated_models(profile).values()
    settings: dict[str, Any] = {"tls": config.tls, "token": config.token, "arena": config.arena}
    return lambda on_host: run_emulated(find, config.name, models, devices, on_host=on_host, **settings)


def _received(chosen: Path | None, size: Bytes) -> tuple[Path, Bytes] | None:
    """Return the directory for received models and its largest size. Without a home directory, return None."""
    from clockwork.cli.process import cache_directory

    try:
        return (chosen or cache_directory() / "received-models").absolute(), size
    except RuntimeError:
        return None


def _make_runtime(
    name: str, config: "WorkerConfig", options: DeviceOptions, max_batch: int, allow_compiled: bool, **settings: Any
) -> "tuple[Runtime, WorkerConfig]":
    """Return the runtime and the configuration. On GPUs, the configuration includes the size of the weights cache."""
    if not options.on_gpus:
        return make_runtime(name, config.threads_per_device, allow_compiled=allow_compiled, **settings), config
    runtime, cache_bytes = make_runtime_on_gpus(
        name,
        config.devices,
        options,
        cache_size=config.cache_bytes,
        page_size=config.page_size,
        max_batch=max_batch,
        **settings,
    )
    return runtime, replace(config, cache_bytes=cache_bytes)


def _findings(config: "WorkerConfig", options: DeviceOptions) -> "tuple[Finding, ...]":
    """Return what disturbs this machine, as far as it can be found without a measurement."""
    from msgspec.structs import replace as with_fields

    from clockwork.environment.checks import check
    from clockwork.environment.findings import disturbing
    from clockwork.environment.measurement import examine_at_start

    environment = examine_at_start(config.devices, config.threads_per_device, config.taken_cores or ())
    if options.on_gpus:
        from clockwork.runtimes.nvidia import find_gpus

        environment = with_fields(environment, gpus=find_gpus())
    return disturbing(check(environment))


def _run(
    make: "Callable[[OnHost], Coroutine[Any, Any, None]]", health: Address | None, report_descriptor: int | None
) -> None:
    """Run a worker until a signal arrives. The worker then finishes its actions and disconnects."""
    import uvloop

    from clockwork.cli.process import Shutdown, run_until_signal
    from clockwork.host.worker_health import serving_health

    shutdown = Shutdown()
    hosts: list[WorkerHost] = []

    def on_host(host: "WorkerHost") -> None:
        hosts.append(host)
        shutdown.before_end(host.leave)

    async def work() -> None:
        async with serving_health(health, lambda: any(host.is_ready() for host in hosts)) as address:
            AddressReport(report_descriptor).listening({"health": address})
            if address is not None:
                print(f"clockwork worker serves health checks on {address}", flush=True)
            await make(on_host)

    uvloop.run(run_until_signal(work(), shutdown))


def check_worker(
    emulate: int | None, profile: list[str] | None, cache_size: Bytes | None, config: "WorkerConfig"
) -> None:
    """Check the options of a worker as far as this is possible without starting the worker.

    Raises:
        InvalidRequestError, typer.BadParameter: an option is wrong.
    """
    from clockwork.cli.models import emulated_models, emulated_pages

    if emulate:
        emulated_models(profile)
        emulated_pages(cache_size)
    else:
        config.pages()
