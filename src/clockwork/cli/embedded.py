"""A controller in this process and a worker in a child: what ``clockwork serve`` runs."""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from clockwork.access import Tokens
from clockwork.cli.child import Child, this_program
from clockwork.cli.devices import DeviceOptions
from clockwork.cli.hosting import FrontEnds, run_controller
from clockwork.cli.lifecycle import start_log
from clockwork.cli.security import WORKER_TOKEN_VARIABLE
from clockwork.cli.startup import show_startup
from clockwork.host.affinity import allowed_cores, confined, plan_cores
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.scheduling.base import Scheduler
from clockwork.units import Bytes, Nanos


class WorkerOptions(Protocol):
    """What the operator said about the worker."""

    def arguments(self) -> list[str]:
        """Its command line, without the program, the controller's address and the log's level."""
        ...

    def cores_left(self, cores: Collection[int]) -> Collection[int]:
        """Those of ``cores`` on which its devices do not execute."""
        ...


class LocalWorker(Struct, frozen=True):
    """A worker that executes models."""

    model_root: Path
    devices: int
    threads_per_device: int
    runtime: str
    cache_size: Bytes | None
    page_size: Bytes
    model_cache: Path | None
    model_cache_size: Bytes
    device: DeviceOptions = DeviceOptions()
    max_batch: int = 16  #: on GPUs: what is prepared ahead
    allow_compiled: bool = False
    no_batching: tuple[str, ...] = ()
    allow_batching: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """See `WorkerOptions`."""
        made = [
            f"--model-root={self.model_root}",
            f"--devices={self.devices}",
            f"--threads-per-device={self.threads_per_device}",
            f"--runtime={self.runtime}",
            f"--page-size={self.page_size}",
        ]
        if self.device.on_gpus:
            made += [*self.device.arguments(), f"--max-batch={self.max_batch}"]
        if self.cache_size is not None:
            made.append(f"--cache-size={self.cache_size}")
        made += [f"--no-batching={name}" for name in self.no_batching]
        made += [f"--allow-batching={name}" for name in self.allow_batching]
        if self.allow_compiled:
            made.append("--allow-compiled")
        if self.model_cache is not None:
            made += [f"--model-cache={self.model_cache.absolute()}", f"--model-cache-size={self.model_cache_size}"]
        return made

    def cores_left(self, cores: Collection[int]) -> Collection[int]:
        """See `WorkerOptions`."""
        return plan_cores(cores, self.devices, self.threads_per_device).others


class EmulatedWorker(Struct, frozen=True):
    """A worker whose devices take their times from profiles."""

    devices: int
    profiles: Sequence[str]
    cache_size: Bytes | None

    def arguments(self) -> list[str]:
        """See `WorkerOptions`."""
        made = [f"--emulate={self.devices}", *(f"--profile={profile}" for profile in self.profiles)]
        return made if self.cache_size is None else [*made, f"--cache-size={self.cache_size}"]

    def cores_left(self, cores: Collection[int]) -> Collection[int]:
        """See `WorkerOptions`."""
        return cores


def run_embedded(
    config: ControllerHostConfig,
    scheduler: Scheduler,
    worker: WorkerOptions,
    ends: FrontEnds,
    drain_limit: Nanos,
    log_level: str,
    log_format: str,
) -> None:
    """Run both, and the front ends that have an address, until a signal asks to end.

    The worker lives until the controller has drained. This process keeps off the devices' cores, as the worker's own
    other threads do.

    Raises:
        ServerError: a model that was named cannot be served, or the worker cannot be kept alive.
    """
    console = start_log(log_level, log_format)
    cores = allowed_cores()

    # Whoever is on this host can reach the port for workers; a worker may do as it likes with what clients send.
    token = secrets.token_urlsafe()
    config = replace(config, worker_tokens=Tokens([token]))

    async def keep_worker(host: ControllerHost) -> None:
        places = ["--exit-with-parent", "--name=local", f"--controller={host.worker_address}"]
        logged = [f"--log-level={log_level}", f"--log-format={log_format}"]
        shared = [] if host.arena is None else [host.arena.for_worker]
        command = this_program(
            "worker", *places, *logged, *(f"--payload-descriptor={it}" for it in shared), *worker.arguments()
        )

        def started(pid: int) -> None:
            host.reception.busy.follow(pid)

        await Child(command, cores, {WORKER_TOKEN_VARIABLE: token}, shared, started).keep()

    async def show(host: ControllerHost) -> None:
        await show_startup(host, console)

    with confined(worker.cores_left(cores)):
        run_controller(config, scheduler, ends, drain_limit, keep_worker, show)
