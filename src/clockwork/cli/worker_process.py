"""Runs the worker process of ``clockwork serve``. The worker is restarted when it dies, and ends when ``serve`` ends.

If the first process exits with an error soon after its start, it has logged the reason, and ``serve`` ends too. If a
process dies in any other case, it is restarted, and the server is not ready until then. If the operator set
``max_restarts``, ``serve`` ends after that number of restarts in a row.
"""

import secrets
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from clockwork.access import Tokens
from clockwork.cli.controller_process import FrontEnds, run_controller, show_startup
from clockwork.cli.logs import start_log
from clockwork.cli.runtimes import DeviceOptions
from clockwork.cli.security import WORKER_TOKEN_VARIABLE
from clockwork.host.affinity import CorePlan, allowed_cores, claimed_cores, confined
from clockwork.host.child_process import Child, this_program
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.process_tuning import yield_to_devices
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.scheduling.base import Scheduler
from clockwork.units import Bytes, Nanos

# ------------------------------------------------------------------------------------------- kinds of workers


class WorkerOptions(Protocol):
    """The interface of the options for the worker of ``clockwork serve``."""

    def arguments(self) -> list[str]:
        """Return the arguments for ``clockwork worker``, except the controller's address and the log options."""
        ...

    def claimed_cores(self, cores: Collection[int]) -> AbstractContextManager[CorePlan]:
        """Return a context that claims cores for the devices, so that no other worker uses them.

        The context's value is a plan that divides ``cores`` among the devices and other threads.
        """
        ...


class LocalWorker(Struct, frozen=True, kw_only=True):
    """Options of a worker that executes models. ``max_batch`` is only used on GPUs."""

    model_root: Path
    links: LinkPolicy = NO_LINKS
    devices: int
    threads_per_device: int
    runtime: str
    cache_size: Bytes | None
    page_size: Bytes
    model_cache: Path | None
    model_cache_size: Bytes
    device: DeviceOptions = DeviceOptions()
    max_batch: int = 16
    allow_compiled: bool = False
    no_batching: tuple[str, ...] = ()
    allow_batching: tuple[str, ...] = ()
    model_shapes: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Return the arguments of ``clockwork worker``."""
        arguments = [
            f"--model-root={self.model_root}",
            f"--devices={self.devices}",
            f"--threads-per-device={self.threads_per_device}",
            f"--runtime={self.runtime}",
            f"--page-size={self.page_size}",
        ]
        if self.device.on_gpus:
            arguments += [*self.device.arguments(), f"--max-batch={self.max_batch}"]
        if self.cache_size is not None:
            arguments.append(f"--cache-size={self.cache_size}")
        arguments += [f"--named-directories={directory}" for directory in self.links.named]
        arguments += [f"--allow-links-to={directory}" for directory in self.links.targets]
        arguments += [f"--no-batching={name}" for name in self.no_batching]
        arguments += [f"--allow-batching={name}" for name in self.allow_batching]
        arguments += [f"--model-shape={shape}" for shape in self.model_shapes]
        if self.allow_compiled:
            arguments.append("--allow-compiled")
        if self.model_cache is not None:
            arguments.append(f"--model-cache={self.model_cache.absolute()}")
            arguments.append(f"--model-cache-size={self.model_cache_size}")
        return arguments

    def claimed_cores(self, cores: Collection[int]) -> AbstractContextManager[CorePlan]:
        """Return a context that claims cores for each device. The context's value is the plan of the cores."""
        return claimed_cores(cores, self.devices, self.threads_per_device)


class EmulatedWorker(Struct, frozen=True):
    """Options of a worker whose devices take their times from profiles."""

    devices: int
    profiles: Sequence[str]
    cache_size: Bytes | None

    def arguments(self) -> list[str]:
        """Return the arguments of ``clockwork worker``."""
        arguments = [f"--emulate={self.devices}", *(f"--profile={profile}" for profile in self.profiles)]
        return arguments if self.cache_size is None else [*arguments, f"--cache-size={self.cache_size}"]

    def claimed_cores(self, cores: Collection[int]) -> AbstractContextManager[CorePlan]:
        """Return a context that claims no cores, because emulated devices execute no models."""
        return claimed_cores(cores, 0, 1)


def run_with_worker(
    config: ControllerHostConfig,
    scheduler: Scheduler,
    worker: WorkerOptions,
    ends: FrontEnds,
    drain_limit: Nanos,
    *,
    log_options: tuple[str, str],
    max_restarts: int | None,
) -> None:
    """Run a controller in this process and a worker in a child process, until a signal arrives.

    ``log_options`` are the level and the format of the log. For ``max_restarts``, see `Child`.

    The worker runs until the controller has drained. This process claims the cores of the devices. Only the threads
    that execute models use these cores.

    Raises:
        ServerError: no model can be served, an address is in use, or the worker process cannot be kept running.
    """
    log_level, log_format = log_options
    console = start_log(log_level, log_format)
    cores = allowed_cores()

    # Every user of this machine can connect to the port for workers, and a worker receives the data of clients.
    token = secrets.token_urlsafe()
    config = replace(config, worker_tokens=Tokens([token]))

    async def keep_worker(host: ControllerHost) -> None:
        if plan.is_shared:
            yield_to_devices()
        connection = ["--exit-with-parent", "--name=local", f"--controller={host.worker_address}"]
        logging_options = [f"--log-level={log_level}", f"--log-format={log_format}"]
        descriptors = [] if host.arena is None else [host.arena.for_worker]
        shared = [f"--payload-descriptor={descriptor}" for descriptor in descriptors]
        taken = [f"--taken-core={core}" for core in plan.taken]
        command = this_program("worker", *connection, *logging_options, *shared, *taken, *worker.arguments())

        def on_start(pid: int) -> None:
            host.reception.cpu_usage.follow(pid)

        token_variable = {WORKER_TOKEN_VARIABLE: token}
        await Child(command, cores, token_variable, descriptors, on_start, max_restarts).keep_running()

    async def show(host: ControllerHost) -> None:
        await show_startup(host, console)

    with worker.claimed_cores(cores) as plan, confined(plan.others):
        run_controller(config, scheduler, ends, drain_limit, keep_worker, show)
