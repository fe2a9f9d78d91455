"""A log without a reader: no code waits for it, dropped text is counted, and the count is reported."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from clockwork.log_writer import PIECE_COST, LogWriter

LINE = "x" * 99 + "\n"
COST = len(LINE) + PIECE_COST
PIPE = 4096
"""Bytes that a pipe of the tests holds: the smallest that Linux makes."""


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE)
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def notice(count: int) -> str:
    return f"{count} dropped\n"


def read_all(fd: int, writer: LogWriter) -> list[str]:
    """Everything that the writer has written, in lines, until it has nothing more."""
    done = threading.Event()

    def wait() -> None:
        writer.finish(30)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    os.set_blocking(fd, False)
    text = b""
    while not done.is_set():
        try:
            text += os.read(fd, 1 << 16)
        except BlockingIOError:
            done.wait(0.001)
    with suppress(BlockingIOError):
        text += os.read(fd, 1 << 16)
    return text.decode().removeprefix("f" * PIPE).splitlines(keepends=True)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_full_queue_drops_text_and_reports_the_count_when_it_is_read(blocking: bool) -> None:
    with pipe() as (read, write):
        os.write(write, b"f" * PIPE)
        os.set_blocking(write, blocking)
        writer = LogWriter(write, notice, limit=20 * COST)
        for _ in range(200):
            writer.put(LINE)
        assert not writer.finish(0.01), "the pipe is full, and nobody reads"
        assert writer.dropped == 180
        lines = read_all(read, writer)
        assert lines.count(LINE) == 20
        assert sum(int(line.split()[0]) for line in lines if line.endswith(" dropped\n")) == 180
        writer.put(LINE)
        assert read_all(read, writer) == [LINE], "there is room again"
        assert writer.dropped == 180


def test_without_a_reader_only_the_lines_are_lost() -> None:
    read, write = os.pipe()
    os.close(read)
    writer = LogWriter(write, notice)
    for _ in range(5):
        writer.put(LINE)
    assert writer.finish(30)
    assert writer.dropped == 5
    os.close(write)


def test_text_of_many_threads_within_the_limit_is_not_lost() -> None:
    with pipe() as (read, write):
        writer = LogWriter(write, notice)

        def put() -> None:
            for _ in range(100):
                writer.put(LINE)

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read_all(read, writer) == [LINE] * 800
        assert writer.dropped == 0


def said_by(code: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
    """What a process says that has installed the writer and then does that."""
    begin = f"import sys; sys.path[:0] = {sys.path!r}; from clockwork import log_writer"
    whole = f"{begin}; log_writer.install(lambda count: f'{{count}} dropped\\n')\n{code}"
    return subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, timeout=60, check=False, **settings
    )


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        ("print('a'); print('b', end='')", "a\nb", ""),
        ("print('é\\udcff')", "é\\udcff\n", ""),
        ("import warnings; warnings.warn('mind this', stacklevel=1)", "", "mind this"),
        ("raise ValueError('uncaught')", "", "ValueError: uncaught"),
        ("import logging; logging.getLogger('a').warning('of %s', 'logging')", "", "of logging"),
        ("import os; os.write(2, b'straight')", "", "straight"),
        ("class A:\n  def __del__(self): print('at the end')\na = A()\ndel a", "at the end\n", ""),
    ],
)
def test_all_printed_text_is_written(code: str, out: str, err: str) -> None:
    done = said_by(code)
    assert done.stdout == out
    assert err in done.stderr
    assert bool(done.stderr) is bool(err)


def test_a_process_whose_output_nobody_reads_ends() -> None:
    read, write = os.pipe()
    code = "import os\nfor i in range(10_000): print('x' * 1000, file=sys.stderr)\n"
    code += "try: os.write(2, b'c' * 100_000)\nexcept BlockingIOError: pass\n"
    code += "sys.stdout = sys.__stdout__; print(log_writer.dropped_lines() > 5000)"
    begin = f"import sys; sys.path[:0] = {sys.path!r}; from clockwork import log_writer"
    whole = f"{begin}; log_writer.install(str)\n{code}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", whole], stdout=subprocess.PIPE, stderr=write, text=True, timeout=60, check=True
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout == "True\n"


def test_the_numbers_of_closed_streams_are_not_used_for_other_files() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from clockwork import log_writer; import os\n"
        "log_writer.fill_standard_streams(); log_writer.install(str)\n"
        "print('lost'); print('lost', file=sys.stderr)\n"
        "assert os.open('/dev/zero', os.O_RDONLY) > 2\n"
        "os._exit(7)\n"
    )
    command = f'exec "{sys.executable}" -c "$CODE" <&- >&- 2>&-'
    assert (
        subprocess.run(["sh", "-c", command], env={**os.environ, "CODE": code}, timeout=60, check=False).returncode == 7
    )
