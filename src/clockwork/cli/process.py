"""Runs the process of a command that serves until it is stopped: its signals, its tasks and its parent process.

SIGINT, SIGTERM and SIGHUP shut the command down. The command finishes the work that has begun, and exits with code 0. A
second signal ends the process at once, because the program does not handle the second signal.
"""

import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from clockwork import log_writer
from clockwork.cli import logs
from clockwork.host.child_environment import GRACE
from clockwork.host.log_events import event_fields

LIBRARY_CACHES: Final = {"CUDA_CACHE_PATH": "cuda", "MPLCONFIGDIR": "matplotlib"}
"""Environment variables of libraries, and the subdirectories of Clockwork's cache to which they are set.

Without these variables, the libraries would write to ``~/.nv`` and to ``~/.config``.
"""

log = logging.getLogger("clockwork.cli")

_parent_is_watched: Final = threading.Event()
"""Set if this process ends when its parent ends. The parent logs why it ends, so this process does not log the signal.
"""


class Shutdown:
    """Holds an optional function. After a signal, the function is called before the process's work is cancelled."""

    def __init__(self) -> None:
        """Create the object. It calls no function after a signal, until such a function is set."""
        self._finish: Callable[[], Awaitable[None]] | None = None

    def before_end(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Set the function that is called and awaited once, when a signal arrives."""
        self._finish = finish

    async def finish(self) -> None:
        """Call the function if it is set."""
        if self._finish is not None:
            await self._finish()


async def run_until_signal(work: Coroutine[Any, Any, None], shutdown: Shutdown) -> None:
    """Run ``work`` until it has ended or a signal arrives.

    After a signal, the function that was passed to ``shutdown`` is called. ``work`` continues until this function
    returns. Then ``work`` is cancelled and awaited.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # the program nohup ignores SIGHUP
        signals.append(signal.SIGHUP)

    def on_signal(number: signal.Signals) -> None:
        extra = event_fields("signal", signal=number.name)
        level = logging.DEBUG if _parent_is_watched.is_set() else logging.INFO
        log.log(level, "%s: shutting down; a second signal ends the process at once", number.name, extra=extra)
        stop.set()
        for caught in signals:
            loop.remove_signal_handler(caught)
            signal.signal(caught, signal.SIG_DFL)

    for caught in signals:
        loop.add_signal_handler(caught, on_signal, caught)
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    interrupted = not working.done()
    if interrupted:
        finishing = asyncio.ensure_future(shutdown.finish())
        await asyncio.wait((working, finishing), return_when=asyncio.FIRST_COMPLETED)
        finishing.cancel()
        await asyncio.wait((finishing,))
        if not finishing.cancelled():
            finishing.result()
        _log_errors_only()
    working.cancel()
    await asyncio.wait((working,))
    if not (interrupted and working.cancelled()):
        working.result()


async def run_together(
    *works: Coroutine[Any, Any, None], on_failure: Callable[[BaseException], None] = lambda error: None
) -> None:
    """Run all coroutines until all have ended or one of them fails.

    If one fails, cancel and await the other coroutines.

    ``on_failure`` is called with the failure before the other coroutines are cancelled.
    """
    import asyncio

    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                on_failure(error)
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def log_failure(error: BaseException) -> None:
    """Log the error that shuts the process down. After that, log only errors."""
    log.error("shutting down: %s", error, extra=event_fields("shutdown", reason=str(error)))
    _log_errors_only()


def _log_errors_only() -> None:
    """Log only errors after this call. Lost connections are normal during a shutdown and need no log lines."""
    logging.getLogger("clockwork").setLevel(logging.ERROR)


def end_with_parent(wanted: bool, command: str, drain_time: float = 0) -> None:
    """If ``wanted``, end this process when its parent process ends.

    Stdin is a pipe from the parent. When the parent ends for any reason, the system closes the pipe. This process then
    sends itself SIGTERM. If this process has not ended `GRACE` seconds after its ``drain_time``, it exits at once.
    """
    if not wanted:
        return
    grace = drain_time + GRACE
    _parent_is_watched.set()
    stdin = os.dup(0)  # other code may close descriptor 0
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        while os.read(stdin, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(grace)
        logs.report(f"clockwork {command}: did not end within {grace:g} s of SIGTERM; exiting at once")
        log_writer.finish()
        os._exit(1)

    threading.Thread(target=watch, name="clockwork-parent", daemon=True).start()


def cache_directory() -> Path:
    """Return the cache directory, for files that Clockwork can create again (XDG Base Directory Specification).

    Raises:
        RuntimeError: the user has no home directory.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clockwork"


def set_library_caches() -> None:
    """Make libraries store their caches in Clockwork's cache directory, unless the environment sets another directory.

    The setting has an effect only on libraries that are loaded later.
    """
    try:
        parent = cache_directory()
    except RuntimeError:  # there is no home directory to which the libraries could write
        return
    for variable, name in LIBRARY_CACHES.items():
        os.environ.setdefault(variable, str(parent / name))
