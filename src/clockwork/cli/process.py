"""The process of a long-running command: its signals, its parent, its tasks and its cache directory.

Rules of the file: SIGINT, SIGTERM and SIGHUP shut the command down. It finishes the work it has begun, and exits with
code 0. A second signal is not caught, so it ends the process at once.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from clockwork import log_writer
from clockwork.cli import logs
from clockwork.host.log_events import event_fields

GRACE: Final = 5.0
"""Seconds that a process may take to end after a request to end; then it is killed."""

LIBRARY_CACHES: Final = {"CUDA_CACHE_PATH": "cuda", "MPLCONFIGDIR": "matplotlib"}
"""Environment variable of a library -> its subdirectory of Clockwork's cache.

Without the variables these libraries write to ``~/.nv`` and to ``~/.config``.
"""

log = logging.getLogger("clockwork.cli")


class Shutdown:
    """Holds the function to call before a signal ends the work; initially none."""

    def __init__(self) -> None:
        """Start without a function."""
        self._finish: Callable[[], Awaitable[None]] | None = None

    def before_end(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Have ``finish`` called and awaited once, when a signal arrives."""
        self._finish = finish

    async def finish(self) -> None:
        """Call the function, if there is one."""
        if self._finish is not None:
            await self._finish()


async def run_until_signal(work: Coroutine[Any, Any, None], shutdown: Shutdown) -> None:
    """Run ``work`` until it is done or a signal arrives.

    After a signal ``shutdown`` finishes while the work goes on. Then the work is cancelled and awaited.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signals.append(signal.SIGHUP)

    def on_signal(number: signal.Signals) -> None:
        extra = event_fields("signal", signal=number.name)
        log.info("%s: shutting down; a second signal ends the process at once", number.name, extra=extra)
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
        logging.getLogger("clockwork").setLevel(logging.ERROR)  # lost connections are expected from here on
    working.cancel()
    await asyncio.wait((working,))
    if not (interrupted and working.cancelled()):
        working.result()


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Run all coroutines until all are done or one fails; then cancel and await the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def end_with_parent() -> None:
    """End this process when its stdin is closed.

    The parent holds the other end of stdin; the system closes it however the parent dies. This process then gets
    SIGTERM; if it has not ended after `GRACE` seconds, it exits at once.
    """
    stdin = os.dup(0)  # other code may close or reuse descriptor 0
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        while os.read(stdin, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE)
        logs.report(f"clockwork worker: did not end within {GRACE:g} s of SIGTERM; exiting at once")
        log_writer.finish()
        os._exit(1)

    threading.Thread(target=watch, name="clockwork-parent", daemon=True).start()


def cache_directory() -> Path:
    """Return the directory for files that Clockwork can make again (XDG Base Directory Specification).

    Raises:
        RuntimeError: this user has no home directory.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clockwork"


def set_library_caches() -> None:
    """Have libraries that are loaded from now on cache below Clockwork's directory, unless the environment differs."""
    try:
        parent = cache_directory()
    except RuntimeError:  # the libraries cannot write to a home directory either
        return
    for variable, name in LIBRARY_CACHES.items():
        os.environ.setdefault(variable, str(parent / name))
