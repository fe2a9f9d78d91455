"""How a command that runs for long begins and ends: its log, its signals, its parent.

Rules of the file: SIGINT, SIGTERM and SIGHUP ask it to end; it finishes what it has begun, and ends with exit code 0. A
second one is not caught, so it ends at once.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from rich.console import Console

from clockwork import __version__, log_writer
from clockwork.cli import logs
from clockwork.host.telling import about

GRACE: Final = 5.0
"""Seconds that a process may take to end when asked to, before it is made to."""

log = logging.getLogger("clockwork.cli")


def start_log(level: str, log_format: str) -> Console:
    """Begin the log on stderr; returns the console for what is drawn there, which with JSON is nothing.

    For people, and on a terminal, it goes through the console, which keeps it clear of a progress bar.
    """
    console = Console(stderr=True, force_terminal=False if log_format == logs.JSON else None)
    if log_format == logs.JSON:
        logs.start_json(level)
    else:
        plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        logs.queued(plain)
        handler: logging.Handler = logging.StreamHandler()
        if console.is_terminal:
            from rich.logging import RichHandler

            handler = RichHandler(console=console, show_path=False, log_time_format="[%X]")
            handler.setFormatter(logging.Formatter("%(message)s"))
        else:
            handler.setFormatter(plain)
        logging.basicConfig(level=level.upper(), handlers=[handler])
    if level == "info":  # not every client that comes and goes
        for name in ("asyncio", "clockwork.link"):
            logging.getLogger(name).setLevel(logging.WARNING)
    log.info("clockwork %s begins", __version__, extra=about("start", version=__version__, pid=os.getpid()))
    return console


class Ending:
    """What is still to be done when a signal asks to end; nothing, until somebody says so."""

    def __init__(self) -> None:
        """With nothing."""
        self._finish: Callable[[], Awaitable[None]] | None = None

    def first(self, finish: Callable[[], Awaitable[None]]) -> None:
        """When a signal comes, ``finish`` is called once, and waited for."""
        self._finish = finish

    async def finish(self) -> None:
        """Do it."""
        if self._finish is not None:
            await self._finish()


async def until_stopped(work: Coroutine[Any, Any, None], ending: Ending) -> None:
    """Do ``work`` until it is done, or until a signal asks to end.

    Then first what ``ending`` says, while the work goes on; then the work is cancelled, and waited for.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        wanted.append(signal.SIGHUP)

    def asked(number: signal.Signals) -> None:
        extra = about("signal", signal=number.name)
        log.info("%s: shutting down; a second signal ends it at once", number.name, extra=extra)
        stop.set()
        for it in wanted:
            loop.remove_signal_handler(it)
            signal.signal(it, signal.SIG_DFL)

    for it in wanted:
        loop.add_signal_handler(it, asked, it)
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    asked_to_end = not working.done()
    if asked_to_end:
        finishing = asyncio.ensure_future(ending.finish())
        await asyncio.wait((working, finishing), return_when=asyncio.FIRST_COMPLETED)
        finishing.cancel()
        await asyncio.wait((finishing,))
        if not finishing.cancelled():
            finishing.result()
        logging.getLogger("clockwork").setLevel(logging.ERROR)  # connections end now; nobody need be warned
    working.cancel()
    await asyncio.wait((working,))
    if not (asked_to_end and working.cancelled()):
        working.result()


def end_with_parent() -> None:
    """End this process when its stdin ends: the parent holds the other end, and the system closes it however it dies.

    First by SIGTERM; by force if that takes too long.
    """
    stdin = os.dup(0)  # the number 0 is everybody's
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        while os.read(stdin, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE)
        logs.say("clockwork worker: did not end in time, and is ended by force")
        log_writer.finish()
        os._exit(1)

    threading.Thread(target=watch, name="clockwork-parent", daemon=True).start()
