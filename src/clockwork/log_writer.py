"""Writes stdout and stderr from a thread, so that a blocked log cannot block the server.

The standard streams may be pipes. The buffer of a pipe has 64 KiB. When the pipe is full, a write blocks until the
reader reads. Meanwhile, the event loop, lane or signal handler that wrote is blocked too. After `install`,
``sys.stdout`` and ``sys.stderr`` only put text into a queue with a limit, and a daemon thread writes the text. While
the queue is full, text is dropped and counted. The thread reports the count as soon as it can write again. All text
that Python code prints is queued in this way: logs, warnings, tracebacks and progress bars.

C code writes directly to the file descriptor. If the descriptor is a pipe or a terminal, it is replaced with a
descriptor that does not block. Text of C code that does not fit into the pipe is lost. A socket cannot be opened a
second time, so it is not replaced.
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
"""Largest number of characters that may wait. Each piece of text counts as its length plus `PIECE_COST`."""

PIECE_COST: Final = 100
"""Number of characters that is added to the length of each piece of text.

This number stands for the memory of a string object.
"""

FINISH_SECONDS: Final = 1.0
"""Longest time in seconds that the process waits at its end until the queue is written."""


class LogWriter:
    """A queue of text with a limit, and a thread that writes the text to a file descriptor."""

    def __init__(
        self, fd: int, notice: Callable[[int], str], encoding: str = "utf-8", limit: int = MAX_WAITING
    ) -> None:
        """Create the queue, and start the thread.

        Args:
            fd: the file descriptor.
            notice: returns the text that reports a number of dropped pieces of text.
            encoding: the encoding of the text.
            limit: largest number of characters that may wait.
        """
        self.dropped = 0  #: number of pieces of text that were not written
        self._fd = fd
        self._notice = notice
        self._encoding = encoding
        self._limit = limit
        # A SimpleQueue is used because `__del__` may put text into it.
        self._queue: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._put = 0  # number of characters that were ever put into the queue
        self._taken = 0
        self._reported = 0  # number of dropped pieces that were reported
        threading.Thread(target=self._run, name="clockwork-log", daemon=True).start()

    def put(self, text: str) -> None:
        """Queue text for writing. This method never blocks, and any thread may call it."""
        cost = len(text) + PIECE_COST
        with self._lock:
            if self._put - self._taken + cost > self._limit:
                self.dropped += 1
                return
            self._put += cost
        self._queue.put(text)

    def finish(self, seconds: float) -> bool:
        """Wait for at most ``seconds`` until the queued text is written. Return whether all of the text is written."""
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
    """A text stream that replaces a standard stream, and passes lines to a `LogWriter`."""

    def __init__(self, writer: LogWriter, original: TextIO) -> None:
        """Replace the stream ``original``. The new stream has the encoding and the descriptor of the original one."""
        self.writer = writer
        self._original = original
        self._lock = threading.RLock()
        self._begun = ""  # the text of an incomplete line

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the original stream."""
        return self._original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the original stream handles encoding errors."""
        return self._original.errors

    def fileno(self) -> int:
        """Return the file descriptor of the original stream."""
        return self._original.fileno()

    def isatty(self) -> bool:
        """Return whether the original stream is a terminal."""
        return self._original.isatty()

    def writable(self) -> bool:
        """Return True, because every program may write to this stream."""
        return True

    def write(self, text: str) -> int:
        """Queue the complete lines of the text. If the last line is incomplete, the stream keeps it for later."""
        with self._lock:
            whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self.writer.put(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Queue an incomplete line, without waiting until the text is written."""
        with self._lock:
            begun, self._begun = self._begun, ""
        if begun:
            self.writer.put(begun)


_streams: Final[list[QueuedStream]] = []


def install(notice: Callable[[int], str]) -> None:
    """Write the text of ``sys.stdout`` and ``sys.stderr`` from threads. The function must be called once in a process.

    Streams without a file descriptor are not changed.
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
    """Wait for at most ``seconds`` until the queued text of all streams is written."""
    for stream in _streams:
        stream.flush()
        stream.writer.finish(seconds / len(_streams))


def dropped_lines() -> int:
    """Return the number of pieces of text that this process has dropped. A line of the log is one piece."""
    return sum(stream.writer.dropped for stream in _streams)


def fill_standard_streams() -> None:
    """Open ``/dev/null`` for each standard stream that was closed when the process began.

    Otherwise the next file or socket would get the descriptor of that stream, and the stream's text would be written to
    it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            stream: Any = Path(os.devnull).open(mode)  # noqa: SIM115 - must stay open until the process ends
            setattr(sys, name, stream)
            if stream.fileno() == number:
                os.set_inheritable(number, True)


def _apart(fd: int) -> int:
    """Return a separate descriptor for the writer, and make ``fd`` non-blocking, because C code uses ``fd``."""
    own = os.dup(fd)
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        with suppress(OSError):  # some files cannot be opened again, such as a different user's terminal
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(again, fd)
            os.close(again)
    return own
