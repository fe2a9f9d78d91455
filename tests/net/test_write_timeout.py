"""A peer that reads nothing is detected; a blocked event loop does not count against the peer."""

import asyncio
import time
from typing import Any

import pytest

from clockwork.net.write_timeout import CHECKS, MIN_PROGRESS, WriteTimeout
from net.links import LOOPS, run


class Wire:
    """A transport with a number of waiting bytes."""

    def __init__(self) -> None:
        self.waiting = 10 * MIN_PROGRESS
        self.calls = 0

    def get_write_buffer_size(self) -> int:
        self.calls += 1
        return self.waiting


def watched(wire: Any, timeout: float) -> tuple[WriteTimeout, asyncio.Event]:
    stalled = asyncio.Event()
    watch = WriteTimeout(wire, timeout, stalled.set)
    watch.begin()
    return watch, stalled


def test_a_peer_that_receives_nothing_counts_as_stalled() -> None:
    async def test() -> None:
        wire = Wire()
        _, stalled = watched(wire, 0.08)
        await stalled.wait()
        assert wire.calls == CHECKS + 1

    run(test())


def test_a_peer_that_takes_enough_gets_a_new_time_out() -> None:
    async def test() -> None:
        wire = Wire()
        _, stalled = watched(wire, 0.08)
        while wire.calls < CHECKS:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not stalled.is_set()
        wire.waiting -= MIN_PROGRESS
        await stalled.wait()
        assert wire.calls == 2 * (CHECKS + 1), "a new time-out began with what was taken"

    run(test())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_stood_still_does_not_count_against_the_peer(loop: str) -> None:
    async def test() -> None:
        wire = Wire()
        watch, stalled = watched(wire, 0.08)
        time.sleep(0.2)  # noqa: ASYNC251 - longer than the time-out; the peer could not be written to
        while wire.calls < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not stalled.is_set(), "that was one look"
        watch.end()

    run(test(), loop)


def test_an_ended_watch_reports_no_stall() -> None:
    async def test() -> None:
        wire = Wire()
        watch, stalled = watched(wire, 0.02)
        watch.end()
        watch.end()
        await asyncio.sleep(0.05)
        assert not stalled.is_set()

    run(test())
