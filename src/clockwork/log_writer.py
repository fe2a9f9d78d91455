"""Writes stdout and stderr from a thread, so that a log that nobody reads stops nothing.

A pipe holds 64 KiB. After that a write blocks until somebody reads, and so do an event loop, a lane or the handling of
a signal that writes. From `install` on, ``sys.stdout`` and ``sys.stderr`` only put text into a bounded queue, and a
daemon thread writes it. While the queue is full, text is dropped and counted; the thread reports the count as soon as
it can write again. Everything in Python that prints is covered: logging, warnings, tracebacks, progress bars, other
packages.

Code in C writes to the file descriptor itself. Where that is a pipe or a terminal, the descriptor is replaced by one
that does not block: C code then loses what does not fit. A socket cannot be opened again, and stays as it is.
"""

import atexit
import io
import os
import queue
import select
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from clockwork.units import MIB

MAX_WAITING: Final = 4 * MIB
"""Characters that may wait to be written, with `PIECE_COST` for each piece of text."""

PIECE_COST: Final = 100
"""Counted for each piece of text beside its characters: about what a short string takes in memory."""

FINISH_SECONDS: Final = 1.0
"""Seconds that the end of the process waits for what has not been written."""


class LogWriter:
    """A bounded queue of text and the thread that writes it to one file descriptor."""

    def __init__(
        self, fd: int, notice: Callable[[int], str], encoding: str = "utf-8", limit: int = MAX_WAITING
    ) -> None:
        """``notice`` makes the text that reports so many dropped pieces."""
        self.dropped = 0  #: pieces of text that were not written
        self._fd = fd
        self._notice = notice
        self._encoding = encoding
        self._limit = limit
        self._queue: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()  # may be put to from `__del__`
        self._lock = threading.RLock()
        self._put = 0  # characters that were put, and of these, those that are no longer in the queue
        self._taken = 0
        self._reported = 0  # of those dropped
        threading.Thread(target=self._run, name="clockwork-log", daemon=True).start()

    def put(self, text: str) -> None:
        """Have text written; never blocks. Any thread may call it."""
        cost = len(text) + PIECE_COST
        with self._lock:
            if self._put - self._taken + cost > self._limit:
                self.dropped += 1
                return
            self._put += cost
        self._queue.put(text)

    def finish(self, seconds: float) -> bool:
        """Wait until all that was put is written, for so long at most; returns whether it is."""
        written = threading.Event()
        self._queue.put(written)
        return written.wait(seconds)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if (dropped := self.dropped) > self._reported:
                self._write(self._notice(dropped - self._reported))
                self._reported = dropped
            if isinstance(item, str):
                if not self._write(item):
                    with self._lock:
                        self.dropped += 1
                self._taken += len(item) + PIECE_COST
            else:
                item.set()

    def _write(self, text: str) -> bool:
        data = memoryview(text.encode(self._encoding, "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                with suppress(OSError, ValueError):
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
            except OSError:  # nobody will read it any more
                return False
        return True


class QueuedStream(io.TextIOBase):
    """A text stream that gives its lines to a `LogWriter`; it stands in for another."""

    def __init__(self, writer: LogWriter, original: TextIO) -> None:
        """``original`` answers what is asked about the file itself."""
        self.writer = writer
        self._original = original
        self._lock = threading.RLock()
        self._begun = ""  # a line that has no end yet

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The original's."""
        return self._original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The original's."""
        return self._original.errors

    def fileno(self) -> int:
        """The original's."""
        return self._original.fileno()

    def isatty(self) -> bool:
        """Whether the original is a terminal."""
        return self._original.isatty()

    def writable(self) -> bool:
        """It always is."""
        return True

    def write(self, text: str) -> int:
        """Have text written, line by line."""
        with self._lock:
            whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self.writer.put(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Have a line written that has no end yet; does not wait."""
        with self._lock:
            begun, self._begun = self._begun, ""
        if begun:
            self.writer.put(begun)


_streams: Final[list[QueuedStream]] = []


def install(notice: Callable[[int], str]) -> None:
    """From now on, write ``sys.stdout`` and ``sys.stderr`` from threads; once for a process.

    Streams without a file descriptor of their own stay as they are.
    """
    for name in ("stdout", "stderr"):
        original = getattr(sys, name)
        try:
            fd = original.fileno()
            original.flush()
        except (AttributeError, OSError, ValueError):
            continue
        if not isinstance(original, QueuedStream):
            stream = QueuedStream(LogWriter(_apart(fd), notice, original.encoding), original)
            _streams.append(stream)
            setattr(sys, name, stream)
    atexit.register(finish)


def finish(seconds: float = FINISH_SECONDS) -> None:
    """Wait until what was printed is written, for so long at most."""
    for stream in _streams:
        stream.flush()
        stream.writer.finish(seconds / len(_streams))


def dropped_lines() -> int:
    """Return how many pieces of text this process has dropped; a line of the log is one."""
    return sum(stream.writer.dropped for stream in _streams)


def fill_standard_streams() -> None:
    """Open ``/dev/null`` in the place of standard streams that were closed when the process began.

    Otherwise the next file or socket that is opened would get the number, and with it what is meant for the stream.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            stream: Any = Path(os.devnull).open(mode)  # noqa: SIM115 - for as long as the process lives
            setattr(sys, name, stream)
            if stream.fileno() == number:
                os.set_inheritable(number, True)


def _apart(fd: int) -> int:
    """Return a descriptor for the writer alone, and keep code in C that writes to ``fd`` from blocking."""
    own = os.dup(fd)
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        with suppress(OSError):  # not every file may be opened again: a terminal of another user
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(again, fd)
            os.close(again)
    return own
