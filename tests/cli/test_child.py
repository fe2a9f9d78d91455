"""How ``serve`` keeps its worker alive, with children that do nothing but die."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from clockwork.cli import child
from clockwork.cli.child import Child
from clockwork.cli.hosting import together
from clockwork.errors import ServerError

CORES = os.sched_getaffinity(0)


def keep(code: str) -> None:
    asyncio.run(asyncio.wait_for(Child([sys.executable, "-c", code], CORES).keep(), 60))


def test_a_child_that_ends_by_itself_at_once_is_not_started_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ServerError, match="the worker process ended with exit code 3: see what it said above"):
        keep(f"open({str(log)!r}, 'a').write('x'); raise SystemExit(3)")
    assert log.read_text() == "x"


def test_a_child_that_is_killed_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "BACKOFF_FIRST", 0.001)
    log = tmp_path / "log"
    with pytest.raises(ServerError, match="was killed by SIGSEGV, for the 5th time within 10 s of its start"):
        keep(f"import os; open({str(log)!r}, 'a').write('x'); os.kill(os.getpid(), 11)")
    assert log.read_text() == "xxxxx"


def test_a_child_that_lasted_a_while_is_started_again_however_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(child, "QUICK", 0.0)
    told = tmp_path / "told"
    os.mkfifo(told)

    async def until_the_third() -> None:
        assert [await asyncio.to_thread(told.read_text) for _ in range(3)] == ["x"] * 3
        raise EOFError

    command = [sys.executable, "-c", f"open({str(told)!r}, 'w').write('x'); raise SystemExit(1)"]
    with pytest.raises(EOFError):
        asyncio.run(together(Child(command, CORES).keep(), until_the_third()))


def test_a_child_that_does_not_end_when_told_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE", 0.01)
    told = tmp_path / "told"
    os.mkfifo(told)

    async def until_it_has_begun() -> None:
        pid = await asyncio.to_thread(told.read_text)
        raise EOFError(pid)

    begin = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(EOFError) as begun:
        asyncio.run(together(Child([sys.executable, "-c", begin], CORES).keep(), until_it_has_begun()))
    assert not Path(f"/proc/{begun.value}").exists()
