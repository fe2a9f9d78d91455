"""How ``serve`` restarts its worker process, tested with child processes that only die."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from clockwork.cli import worker_process
from clockwork.cli.process import run_together
from clockwork.cli.worker_process import Child
from clockwork.errors import ServerError

CORES = os.sched_getaffinity(0)


def keep(code: str) -> None:
    asyncio.run(asyncio.wait_for(Child([sys.executable, "-c", code], CORES).keep_running(), 60))


def test_a_child_that_fails_at_its_start_is_not_restarted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ServerError, match="worker process ended with exit code 3; its error is in the log above"):
        keep(f"open({str(log)!r}, 'a').write('x'); raise SystemExit(3)")
    assert log.read_text() == "x"


def test_a_child_that_is_killed_repeatedly_is_not_restarted_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_BACKOFF", 0.001)
    log = tmp_path / "log"
    with pytest.raises(ServerError, match="was killed by SIGSEGV, for the 5th time within 10 s of its start"):
        keep(f"import os; open({str(log)!r}, 'a').write('x'); os.kill(os.getpid(), 11)")
    assert log.read_text() == "xxxxx"


def test_a_child_that_ran_for_a_while_is_restarted_whatever_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(worker_process, "QUICK", 0.0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def until_the_third() -> None:
        assert [await asyncio.to_thread(fifo.read_text) for _ in range(3)] == ["x"] * 3
        raise EOFError

    command = [sys.executable, "-c", f"open({str(fifo)!r}, 'w').write('x'); raise SystemExit(1)"]
    with pytest.raises(EOFError):
        asyncio.run(run_together(Child(command, CORES).keep_running(), until_the_third()))


def test_a_child_that_does_not_end_on_request_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "GRACE", 0.01)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def until_it_has_begun() -> None:
        pid = await asyncio.to_thread(fifo.read_text)
        raise EOFError(pid)

    begin = f"import os, time; open({str(fifo)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(EOFError) as begun:
        asyncio.run(run_together(Child([sys.executable, "-c", begin], CORES).keep_running(), until_it_has_begun()))
    assert not Path(f"/proc/{begun.value}").exists()
