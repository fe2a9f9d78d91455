"""How a child process is restarted and ended, tested with child processes that only die."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from clockwork.cli.process import run_together
from clockwork.errors import ServerError
from clockwork.host import child_process
from clockwork.host.child_process import Child

CORES = os.sched_getaffinity(0)


def keep(code: str, max_restarts: int | None = None) -> None:
    child = Child([sys.executable, "-c", code], CORES, max_restarts=max_restarts)
    asyncio.run(asyncio.wait_for(child.keep_running(), 60))


def test_a_child_that_fails_at_its_start_is_not_restarted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ServerError, match="worker process ended with exit code 3; its error is in the log above"):
        keep(f"open({str(log)!r}, 'a').write('x'); raise SystemExit(3)")
    assert log.read_text() == "x"


def test_a_child_that_dies_again_after_max_restarts_restarts_is_not_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "FIRST_BACKOFF", 0.001)
    log = tmp_path / "log"
    with pytest.raises(ServerError, match="was killed by SIGSEGV after 2 restarts in a row, which is the limit"):
        keep(f"import os; open({str(log)!r}, 'a').write('x'); os.kill(os.getpid(), 11)", max_restarts=2)
    assert log.read_text() == "xxx"


def test_without_a_limit_a_child_that_is_killed_or_fails_again_is_restarted_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child_process, "FIRST_BACKOFF", 0.1)
    monkeypatch.setattr(child_process, "MAX_BACKOFF", 0.3)
    log = tmp_path / "log"
    # Process 8 runs on; the processes before it are killed, or exit with an error after the first.
    code = f"""if 1:
        import os, sys
        open({str(log)!r}, 'a').write('x')
        starts = os.path.getsize({str(log)!r})
        if starts == 8: sys.exit(sys.stdin.read())
        if starts % 2: os.kill(os.getpid(), 9)
        raise SystemExit(1)
    """

    async def until_the_eighth() -> None:
        while not log.exists() or log.stat().st_size < 8:  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(0.01)
        raise EOFError

    with pytest.raises(EOFError):
        asyncio.run(run_together(Child([sys.executable, "-c", code], CORES).keep_running(), until_the_eighth()))
    pauses = [record.getMessage().rpartition(" in ")[2] for record in caplog.records]
    assert pauses == ["0.1 s", "0.2 s", *["0.3 s"] * 5]


def test_a_child_that_ran_for_a_while_is_restarted_whatever_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(child_process, "QUICK", 0.0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def until_the_third() -> None:
        assert [await asyncio.to_thread(fifo.read_text) for _ in range(3)] == ["x"] * 3
        raise EOFError

    command = [sys.executable, "-c", f"open({str(fifo)!r}, 'w').write('x'); raise SystemExit(1)"]
    with pytest.raises(EOFError):
        asyncio.run(run_together(Child(command, CORES).keep_running(), until_the_third()))


def test_a_child_that_does_not_end_on_request_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "GRACE", 0.01)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def until_it_has_begun() -> None:
        pid = await asyncio.to_thread(fifo.read_text)
        raise EOFError(pid)

    begin = f"import os, time; open({str(fifo)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(EOFError) as begun:
        asyncio.run(run_together(Child([sys.executable, "-c", begin], CORES).keep_running(), until_it_has_begun()))
    assert not Path(f"/proc/{begun.value}").exists()
