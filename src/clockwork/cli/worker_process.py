"""Runs the worker process of ``clockwork serve``. The worker is restarted when it dies, and ends when ``serve`` ends.

If the first process exits with an error soon after its start, it has logged the reason, and ``serve`` ends too. If a
process dies in any other case, it is restarted, and the server is not ready until then. A death less than `QUICK`
seconds after the start of the process is called quick. The wait before a restart doubles with each quick death in a
row, up to `MAX_BACKOFF`. If the operator set ``max_restarts``, ``serve`` ends after that number of restarts in a row.
"""

import asyncio
import logging
import secrets
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from clockwork.access import Tokens
from clockwork.cli.configuration import environment_of_children
from clockwork.cli.controller_process import FrontEnds, run_controller, show_startup
from clockwork.cli.logs import start_log
from clockwork.cli.process import GRACE
from clockwork.cli.runtimes import DeviceOptions
from clockwork.cli.security import WORKER_TOKEN_VARIABLE
from clockwork.errors import ServerError
from clockwork.host.affinity import CorePlan, allowed_cores, claimed_cores, confined
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.log_events import event_fields
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.scheduling.base import Scheduler
from clockwork.units import Bytes, Nanos

QUICK: Final = 10.0
"""Time in seconds. If a process runs for less than this time, its death counts as quick."""

FIRST_BACKOFF: Final = 0.1
"""Wait in seconds before the first restart. The wait doubles with each quick death."""

MAX_BACKOFF: Final = 30.0
"""Longest wait before a restart, in seconds."""

log = logging.getLogger("clockwork.cli")


def this_program(*arguments: str) -> list[str]:
    """Return a command line that runs ``clockwork`` with the same interpreter and modules as this process."""
    here = Path.cwd()
    # The option -P prevents imports from the current directory, unless this process imports from it too.
    safe = [] if any(Path(entry).absolute() == here for entry in sys.path) else ["-P"]
    return [sys.executable, *safe, "-m", "clockwork.cli", *arguments]


class Child:
    """A child process that runs ``command``. The child ends when its stdin is closed."""

    def __init__(
        self,
        command: Sequence[str],
        cores: Collection[int],
        environment: Mapping[str, str] | None = None,
        descriptors: Collection[int] = (),
        on_start: Callable[[int], None] = lambda pid: None,
        max_restarts: int | None = None,
    ) -> None:
        """Prepare to run the command. `keep_running` starts the process.

        Args:
            command: the command line.
            cores: the cores on which the process may run. This process may have other cores.
            environment: variables that are added to this process's environment.
            descriptors: open files that the process inherits.
            on_start: called with the id of each process.
            max_restarts: limit of restarts in a row after quick deaths; `keep_running` then fails. None means no limit.
        """
        self._command = tuple(command)
        self._cores = cores
        self._environment = environment or {}
        self._descriptors = descriptors
        self._on_start = on_start
        self._max_restarts = max_restarts
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> None:
        """Run the process, and restart it when it dies. When this coroutine is cancelled, end the process.

        Raises:
            ServerError: the first process fails when it starts, or ``max_restarts`` is exceeded.
        """
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        is_first = True
        try:
            while True:
                started = loop.time()
                code = await self._run()
                was_quick = loop.time() - started < QUICK
                quick_deaths = quick_deaths + 1 if was_quick else 1
                death = f"worker process {_show_exit(code)}"
                if is_first and code > 0 and was_quick:
                    raise ServerError(f"{death}; its error is in the log above")
                is_first = False
                if self._max_restarts is not None and quick_deaths > self._max_restarts:
                    raise ServerError(
                        f"{death} after {self._max_restarts} restarts in a row, which is the limit (--max-restarts)"
                    )
                wait = min(FIRST_BACKOFF * 2 ** min(quick_deaths - 1, 16), MAX_BACKOFF)
                log.error("%s; restarting it in %.1f s", death, wait, extra=event_fields("worker_died", reason=death))
                await asyncio.sleep(wait)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._end()))

    async def _run(self) -> int:
        with confined(self._cores):
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                env={**environment_of_children(), **self._environment},
                pass_fds=self._descriptors,
                start_new_session=True,  # Ctrl-C in a terminal must reach only this process
            )
        self._on_start(self._process.pid)
        return await self._process.wait()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(2 * GRACE):
                await process.wait()
        except TimeoutError:
            log.error("worker process did not end within %g s; killing it", 2 * GRACE)
            process.kill()
            await process.wait()


def _show_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


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
