"""Runs ``clockwork`` as a process, and waits for lines of its output."""

import io
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

import onnx

import onnx_graphs
from clockwork.host.child_process import this_program

#: Options that make measurements as short as possible.
QUICK = ("--http=none", "--profile-seconds=0.01", "--max-batch=2", "--no-profile-cache", "--slo=20s")


def save_dense(path: Path, seed: int = 0) -> Path:
    """Save a model with input ``x (N, 32) float32`` and output ``y (N, 5) float32``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx_graphs.dense(seed), path)
    return path


class Lines:
    """The lines of a stream. A thread reads them."""

    def __init__(self, stream: IO[str]) -> None:
        self.seen: list[str] = []
        self._stream = stream
        self._more = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):  # a terminal that was closed raises an error
            for line in self._stream:
                with self._more:
                    self.seen.append(line.rstrip("\n"))
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait for the ``count``-th line that matches the pattern."""
        with self._more:
            while True:
                found = [match for line in self.seen if (match := re.search(pattern, line))]
                if len(found) >= count:
                    return found[count - 1]
                assert not self._ended, f"no {pattern!r} in {self.seen}"
                assert self._more.wait(60), f"no {pattern!r} in {self.seen}"

    def all(self) -> list[str]:
        """Wait for the end of the stream. Return all lines."""
        self._thread.join(60)
        return self.seen


class Process:
    """A running ``clockwork`` process."""

    def __init__(self, arguments: Sequence[str], stderr: int, prefix: Sequence[str] = ()) -> None:
        """``prefix`` is a command that runs the rest of its arguments as a command, such as ``nice``."""
        with _default_hangup():
            self.popen = subprocess.Popen(
                [*prefix, *this_program(), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert self.popen.stdout is not None
        self.out, self.err = Lines(self.popen.stdout), Lines(self.popen.stderr or io.StringIO())

    def send(self, signal: int) -> None:
        self.popen.send_signal(signal)

    def ended(self) -> int:
        """Wait for the end of the process. Return its exit code."""
        code = self.popen.wait(30)
        self.out.all()
        self.err.all()
        return code

    def problems(self) -> list[str]:
        """Return the lines of the log that report a problem.

        The warning that other workers use the cores is not one, because another server may run on the host.
        """
        marks = ("Traceback", " ERROR ", " WARNING ")
        lines = [line for line in self.err.seen if any(mark in line for mark in marks)]
        return [line for line in lines if "other workers on this host use" not in line]

    def address(self) -> str:
        """Wait until the server serves. Return its address."""
        try:
            return self.out.wait_for(r"serving \d+ models? on (\S+)$")[1]
        except AssertionError as error:
            raise AssertionError("\n".join(self.err.seen)) from error

    def child(self) -> int:
        """Return the id of the only child process."""
        pid = self.popen.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)


@contextmanager
def clockwork(*arguments: str, stderr: int = subprocess.PIPE, prefix: Sequence[str] = ()) -> Iterator[Process]:
    process = Process(arguments, stderr, prefix)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait(30)
        process.out.all()
        process.err.all()
        for stream in (process.popen.stdin, process.popen.stdout, process.popen.stderr):
            if stream is not None:
                stream.close()


def serve(*arguments: str, stderr: int = subprocess.PIPE) -> AbstractContextManager[Process]:
    """Run ``clockwork serve`` on a free port with short measurements."""
    return clockwork("serve", "--listen=127.0.0.1:0", *QUICK, *arguments, stderr=stderr)


@contextmanager
def _default_hangup() -> Iterator[None]:
    """Let child processes receive SIGHUP, even if the tests run under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def watched(pid: int) -> Iterator[int]:
    """Yield a descriptor of a process that stays valid after the end of the process."""
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def wait_for_end(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(30_000), "the process has not ended"
