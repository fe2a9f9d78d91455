"""Shows ``clockwork top`` on a terminal: reads the server, draws the screen, and handles keys."""

import asyncio
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from clockwork.cli.output import Listing
from clockwork.cli.security import Credentials
from clockwork.cli.top_report import SORTS, WINDOWS, Reading, screen, top_of
from clockwork.client import AsyncClient
from clockwork.errors import ClockworkError, InvalidRequestError
from clockwork.units import SECOND, Nanos, as_seconds

MAX_RETRY: Final[Nanos] = SECOND
"""Longest time between two attempts to connect."""

MAX_KEYS: Final = 64
"""Number of bytes that are read from the terminal at once."""

QUIT: Final = "q"
WINDOW: Final = "w"
ESCAPE: Final = re.compile(r"\x1b(?:\[[0-9;]*[@-~]|O.)?")
"""What a terminal sends for keys without a character, such as arrow keys."""


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


async def read(client: AsyncClient) -> Reading:
    """Read the server's status and its plan."""
    server = await client.status()
    try:
        return Reading(server, await client.timeline(past=0, limit=1))
    except InvalidRequestError:  # the server records no actions
        return Reading(server, None)


async def read_twice(address: str, credentials: Credentials, interval: Nanos) -> tuple[Reading, Reading]:
    """Read the server twice, with this time between the readings."""
    async with AsyncClient(address, **credentials.arguments()) as client:
        before = await read(client)
        await asyncio.sleep(as_seconds(interval))
        return before, await read(client)


class TopScreen:
    """The screen of one server. `run` returns when the user ends it."""

    def __init__(self, address: str, credentials: Credentials, interval: Nanos, sort: str, window: str) -> None:
        """``sort`` is a key of `SORTS`, and ``window`` is one of `WINDOWS`."""
        self._address, self._credentials, self._interval = address, credentials, interval
        self._sort, self._window = sort, window
        self._console = Console(highlight=False, markup=False)
        self._live: Live | None = None
        self._before: Reading | None = None
        self._reading: Reading | None = None
        self._problem = ""
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Show the screen until the key q, Ctrl-C or a signal that ends the process.

        Raises:
            ClockworkError: the first connection or the first reading failed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ended.set)
        loop.add_signal_handler(signal.SIGWINCH, self._draw)
        work, ended = asyncio.ensure_future(self._work()), asyncio.ensure_future(self._ended.wait())
        await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _work(self) -> None:
        """Read and draw. If the connection ends, connect again."""
        with ExitStack() as terminal:
            while True:
                try:
                    await self._read(terminal)
                except (ClockworkError, OSError) as error:
                    if self._live is None:
                        raise
                    self._problem = f"connecting again: {error}"
                    self._draw()
                await asyncio.sleep(as_seconds(min(self._interval, MAX_RETRY)))

    async def _read(self, terminal: ExitStack) -> None:
        """Connect, and read and draw until an error occurs. The terminal is set up after the first reading."""
        async with AsyncClient(self._address, **self._credentials.arguments()) as client:
            before: Reading | None = None
            while True:
                reading = await read(client)
                if self._live is None:
                    terminal.enter_context(_keys(self._pressed))
                    self._live = terminal.enter_context(
                        Live(
                            console=self._console,
                            screen=True,
                            auto_refresh=False,
                            redirect_stdout=False,
                            redirect_stderr=False,
                        )
                    )
                self._before, self._reading, self._problem = before, reading, ""
                self._draw()
                before = reading
                await asyncio.sleep(as_seconds(self._interval))

    def _pressed(self, key: str) -> None:
        if key == QUIT:
            self._ended.set()
        elif key == WINDOW:
            self._window = WINDOWS[(WINDOWS.index(self._window) + 1) % len(WINDOWS)]
        else:
            self._sort = next((name for name, (letter, _) in SORTS.items() if letter == key), self._sort)
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(Group(*self._content()), refresh=True)

    def _content(self) -> Iterator[RenderableType]:
        console = self._console
        if self._reading is not None:
            top = top_of(self._reading, self._before, folded=True)
            for item in screen(self._reading, top, sort=self._sort, window=self._window, height=console.height - 2):
                yield item.fitted(console) if isinstance(item, Listing) else _line(item)
        if self._problem:
            yield _line(self._problem, "bold red")
        keys = " ".join(f"{letter}:{name}" for name, (letter, _) in SORTS.items())
        yield _line(f"by {self._sort}, {self._window}  {keys} {WINDOW}:window {QUIT}:quit", "reverse")


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


@contextmanager
def _keys(pressed: Callable[[str], None]) -> Iterator[None]:
    """Call ``pressed`` for each key, without waiting for the Enter key. Do nothing if stdin is not a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    stdin, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    earlier = termios.tcgetattr(stdin)

    def readable() -> None:
        data = os.read(stdin, MAX_KEYS)
        if not data:
            loop.remove_reader(stdin)
        for key in ESCAPE.sub("", data.decode(errors="replace")):
            pressed(key)

    tty.setcbreak(stdin)
    loop.add_reader(stdin, readable)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, earlier)
