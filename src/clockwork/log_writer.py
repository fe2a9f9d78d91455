"""Writes stdout and stderr from a thread, so that a blocked log cannot block the server.

A pipe holds 64 KiB. When it is full, a write blocks until the reader reads, and so does an event loop, a lane or a
signal handler that writes. After `install`, ``sys.stdout`` and ``sys.stderr`` only put text into a bounded queue, and a
daemon thread writes it. While the queue is full, text is dropped and counted. The thread reports the count as soon as
it can write again. This covers everything in Python that prints: logging, warnings, tracebacks, progress bars and other
packages.

Code in C writes to the file descriptor itself. If the descriptor is a pipe or a terminal, it is replaced by one that
does not block, so C code loses text that does not fit. A socket cannot be opened again and stays as it is.
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
"""Limit on the characters that wait to be written; each piece of text also counts `PIECE_COST`."""

PIECE_COST: Final = 100
"""Characters that each piece of text counts in addition: about the memory of a short string object."""

FINISH_SECONDS: Final = 1.0
"""Seconds for which the end of the process waits until the queue is written."""


class LogWriter:
    """A bounded queue of text and the thread that writes it to one file descriptor."""

    def __init__(
        self, fd: int, notice: Callable[[int], str], encoding: str = "utf-8", limit: int = MAX_WAITING
    ) -> None:
        """``notice`` returns the text that reports a number of dropped pieces."""
        self.dropped = 0  #: pieces of text that were not written
        self._fd = fd
        self._notice = notice
        self._encoding = encoding
        self._limit = limit
        self._queue: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()  # safe to put to from `__del__`
        self._lock = threading.RLock()
        self._put = 0  # characters put into the queue, and taken from it
        self._taken = 0
        self._reported = 0  # dropped pieces that were reported
        threading.Thread(target=self._run, name="clockwork-log", daemon=True).start()

    def put(self, text: str) -> None:
        """Queue text for writing. Never blocks; any thread may call it."""
        cost = len(text) + PIECE_COST
        with self._lock:
            if self._put - self._taken + cost > self._limit:
                self.dropped += 1
                return
            self._put += cost
        self._queue.put(text)

    def finish(self, seconds: float) -> bool:
        """Wait until the queued text is written, for at most ``seconds``; return whether it is."""
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
            except OSError:  # the reader has closed the file
                return False
        return True


class QueuedStream(io.TextIOBase):
    """A text stream that replaces another and passes its lines to a `LogWriter`."""

    def __init__(self, writer: LogWriter, original: TextIO) -> None:
        """``original`` is the replaced stream, which has the properties of the file."""
        self.writer = writer
        self._original = original
        self._lock = threading.RLock()
        self._begun = ""  # an incomplete line

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
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Queue the complete lines of the text for writing."""
        with self._lock:
            whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self.writer.put(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Queue an incomplete line for writing, without waiting."""
        with self._lock:
            begun, self._begun = self._begun, ""
        if begun:
            self.writer.put(begun)


_streams: Final[list[QueuedStream]] = []


def install(notice: Callable[[int], str]) -> None:
    """Write ``sys.stdout`` and ``sys.stderr`` from threads from now on; to be called once per process.

    Streams that have no file descriptor stay as they are.
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
    """Wait until the queued text of all streams is written, for at most ``seconds``."""
    for stream in _streams:
        stream.flush()
        stream.writer.finish(seconds / len(_streams))


def dropped_lines() -> int:
    """Return the number of pieces of text that this process has dropped; a line of the log is one piece."""
    return sum(stream.writer.dropped for stream in _streams)


def fill_standard_streams() -> None:
    """Open ``/dev/null`` for standard streams that were closed when the process began.

    Otherwise the next file or socket would get the stream's number, and with it the stream's text.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            stream: Any = Path(os.devnull).open(mode)  # noqa: SIM115 - stays open while the process lives
            setattr(sys, name, stream)
            if stream.fileno() == number:
                os.set_inheritable(number, True)


def _apart(fd: int) -> int:
    """Return a descriptor of the writer's own, and make ``fd`` non-blocking for code in C."""
    own = os.dup(fd)
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        with suppress(OSError):  # some files cannot be opened again, such as a terminal of another user
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(again, fd)
            os.close(again)
    return own
