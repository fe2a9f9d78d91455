"""The worker of ``clockwork serve``: a child process that is started again when it dies, and never outlives its parent.

Rules of the file: a child that fails by itself soon after its start has said why, and is not started again. One that
was killed, told to end, or ran for a while, is, after a wait that doubles; not more than `QUICK_DEATHS_MAX` times if it
never lasts.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from clockwork.cli.configuration import environment_of_children
from clockwork.cli.lifecycle import GRACE
from clockwork.errors import ServerError
from clockwork.host.affinity import confined
from clockwork.host.telling import about

QUICK: Final = 10.0
"""Seconds; a child that dies sooner has died quickly."""

QUICK_DEATHS_MAX: Final = 5
"""Quick deaths in a row after which there is no point in another start."""

BACKOFF_FIRST: Final = 0.1
"""Seconds before a child is started again; doubles with each quick death."""

log = logging.getLogger("clockwork.cli")


def this_program(*arguments: str) -> list[str]:
    """The command line of another ``clockwork`` like this one, from the same interpreter and the same place."""
    here = Path.cwd()
    safe = [] if any(Path(entry).absolute() == here for entry in sys.path) else ["-P"]  # it imports what this one would
    return [sys.executable, *safe, "-m", "clockwork.cli", *arguments]


class Child:
    """A process that runs ``command``, and ends when its stdin does."""

    def __init__(
        self,
        command: Sequence[str],
        cores: Collection[int],
        environment: Mapping[str, str] | None = None,
        descriptors: Collection[int] = (),
        on_start: Callable[[int], None] = lambda pid: None,
    ) -> None:
        """The child may use ``cores``, whatever this process is confined to; ``environment`` is added to this one's.

        ``descriptors``: open files that it inherits. ``on_start`` receives the id of each process that is started.
        """
        self._command = tuple(command)
        self._cores = cores
        self._environment = environment or {}
        self._descriptors = descriptors
        self._on_start = on_start
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Run it, and run it again, until cancelled; then it is ended.

        Raises:
            ServerError: it cannot be kept alive.
        """
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        try:
            while True:
                started = loop.time()
                code = await self._run()
                quick_deaths = quick_deaths + 1 if loop.time() - started < QUICK else 1
                ended = f"the worker process {_show_end(code)}"
                if code > 0 and loop.time() - started < QUICK:
                    raise ServerError(f"{ended}: see what it said above")
                if quick_deaths >= QUICK_DEATHS_MAX:
                    raise ServerError(f"{ended}, for the {quick_deaths}th time within {QUICK:g} s of its start")
                wait = BACKOFF_FIRST * 2 ** (quick_deaths - 1)
                log.error("%s: it is started again in %.1f s", ended, wait, extra=about("worker_died", reason=ended))
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
                start_new_session=True,  # Ctrl-C in the terminal is for the parent alone
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
            log.error("the worker process did not end in time, and is killed")
            process.kill()
            await process.wait()


def _show_end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
