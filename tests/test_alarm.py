"""The timer calls once and on time, and not after it was set again or closed."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from clockwork.alarm import Alarm
from clockwork.units import SECOND, ms, us

LOOPS = pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])


def run(loop: Callable[[], asyncio.AbstractEventLoop], test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(test, 30))


def wait_until(moment: int) -> None:
    """Wait without letting the event loop run."""
    while time.monotonic_ns() < moment:
        pass


def open_files() -> int:
    """Return the number of open files of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Rings:
    """An alarm, and the times of its calls."""

    def __init__(self) -> None:
        self.alarm = Alarm(asyncio.get_running_loop(), self._ring)
        self.times: list[int] = []
        self._rang = asyncio.Event()

    def _ring(self) -> None:
        self.times.append(time.monotonic_ns())
        self._rang.set()

    async def next(self) -> None:
        await self._rang.wait()
        self._rang.clear()


@LOOPS
def test_an_alarm_calls_once_and_never_too_early(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        rings = Rings()
        for delay in (us(50), us(300), ms(2), ms(15)):
            begin = time.monotonic_ns()
            rings.alarm.set(delay)
            await rings.next()
            assert rings.times[-1] - begin >= delay
        await asyncio.sleep(0.02)
        assert len(rings.times) == 4
        rings.alarm.close()

    run(loop, test())


@LOOPS
def test_an_alarm_for_the_past_calls_at_once(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        rings = Rings()
        for delay in (0, -1, -SECOND):
            rings.alarm.set(delay)
            await rings.next()
        rings.alarm.close()

    run(loop, test())


@LOOPS
def test_setting_an_alarm_again_replaces_its_time(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        rings = Rings()
        rings.alarm.set(1)
        wait_until(time.monotonic_ns() + ms(1))  # it is due and has not called
        rings.alarm.set(ms(20))
        begin = time.monotonic_ns()
        await rings.next()
        assert time.monotonic_ns() - begin >= ms(19)
        assert len(rings.times) == 1
        rings.alarm.set(SECOND)
        rings.alarm.set(ms(1))
        await rings.next()
        rings.alarm.close()

    run(loop, test())


def test_closing_an_alarm_closes_its_file() -> None:
    async def test() -> None:
        before = open_files()
        rings = Rings()
        rings.alarm.set(1)
        rings.alarm.close()
        rings.alarm.close()
        await asyncio.sleep(0.01)
        assert rings.times == []
        assert open_files() == before

    run(uvloop.new_event_loop, test())
