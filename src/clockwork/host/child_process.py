"""Runs a command of Clockwork as a child process, and restarts the process when it dies.

A death less than `QUICK` seconds after the start of the process is called quick. The wait before a restart doubles with
each quick death in a row, up to `MAX_BACKOFF`. The commands ``serve`` and ``ray`` use this module.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from clockwork.errors import ServerError
from clockwork.host.affinity import allowed_cores, confined
from clockwork.host.child_environment import GRACE, environment_of_children
from clockwork.host.log_events import event_fields

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
    """A child process that runs ``command``. The child must end when its stdin is closed."""

    def __init__(
        self,
        command: Sequence[str],
        cores: Collection[int] = (),
        environment: Mapping[str, str] | None = None,
        descriptors: Collection[int] = (),
        on_start: Callable[[int], None] = lambda pid: None,
        max_restarts: int | None = None,
        *,
        name: str = "worker process",
        output: int | None = None,
        may_fail_first: bool = False,
        drain_time: float | None = None,
    ) -> None:
        """Prepare to run the command. `keep_running` starts the process.

        Args:
            command: the command line.
            cores: the cores on which the process may run; by default those of this thread. This process may have other
                cores.
            environment: variables that are added to this process's environment.
            descriptors: open files that the process inherits.
            on_start: called with the id of each process.
            max_restarts: limit of restarts in a row after quick deaths; `keep_running` then fails. None means no limit.
            name: the name of the process in the log and in errors.
            output: the open file for the stdout and stderr of the process; by default those of this process.
            may_fail_first: whether a first process that fails when it starts is restarted too.
            drain_time: time in seconds that the process has to end by itself after SIGTERM. If None, closing stdin
                requests the end instead.
        """
        self._command = tuple(command)
        self._cores = cores
        self._environment = environment or {}
        self._descriptors = descriptors
        self._on_start = on_start
        self._max_restarts = max_restarts
        self._name = name
        self._output = output
        self._may_fail_first = may_fail_first
        self._drain_time = drain_time
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The id of the running process, or None if no process runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def keep_running(self) -> None:
        """Run the process, and restart it when it dies. When this coroutine is cancelled, end the process.

        Raises:
            ServerError: the first process fails when it starts, or ``max_restarts`` is exceeded.
        """
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        is_first = not self._may_fail_first
        try:
            while True:
                started = loop.time()
                code = await self._run()
                was_quick = loop.time() - started < QUICK
                quick_deaths = quick_deaths + 1 if was_quick else 1
                death = f"{self._name} {_show_exit(code)}"
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
        with confined(self._cores or allowed_cores()):
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
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
        if self._drain_time is None:
            process.stdin.close()
        else:
            process.terminate()
        limit = 2 * GRACE if self._drain_time is None else self._drain_time
        try:
            async with asyncio.timeout(limit):
                await process.wait()
        except TimeoutError:
            log.error("%s did not end within %g s; killing it", self._name, limit)
            process.kill()
            await process.wait()
        process.stdin.close()


def _show_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
