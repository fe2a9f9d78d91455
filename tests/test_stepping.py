"""Steps of long work: run without a pause, in turns, and with a shared result."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from clockwork.stepping import MAX_BURST, SharedResult, Stepper
from clockwork.steps import Steps, at_once
from clockwork.units import Nanos


class Ticking:
    """A clock that advances by a burst with every reading, so that each burst is one step."""

    def __init__(self) -> None:
        self._now = 0

    def now(self) -> Nanos:
        self._now += MAX_BURST
        return self._now


def work(log: list[str], name: str, steps: int) -> Steps[str]:
    for step in range(steps):
        log.append(f"{name}{step}")
        if step < steps - 1:
            yield
    return name


def stepper() -> Stepper:
    new = Stepper()
    new._clock = Ticking()
    return new


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_steps_can_be_run_without_a_pause() -> None:
    log: list[str] = []
    assert at_once(work(log, "a", 3)) == "a"
    assert log == ["a0", "a1", "a2"]


def test_a_job_of_one_step_runs_without_a_pause() -> None:
    log: list[str] = []
    steps = stepper().run(work(log, "a", 1))
    with pytest.raises(StopIteration) as end:
        steps.send(None)
    assert end.value.value == "a"


def test_jobs_take_turns_and_the_loop_runs_between_two_steps() -> None:
    log: list[str] = []

    async def test() -> None:
        shared = stepper()
        jobs = asyncio.gather(*(shared.run(work(log, name, 4)) for name in "abc"))
        await asyncio.sleep(0)
        while not jobs.done():
            log.append("|")
            await asyncio.sleep(0)
        assert await jobs == ["a", "b", "c"]

    run(test())
    assert log[:3] == ["a0", "b0", "c0"]
    rest = "".join(log[3:]).strip("|")
    bursts = [burst for burst in rest.split("|") if burst]
    assert all(len(burst) == 2 for burst in bursts), "one step in each turn of the loop"
    assert [burst[0] for burst in bursts] == list("abc") * 3


def test_a_short_job_does_not_wait_for_long_ones() -> None:
    log: list[str] = []

    async def test() -> None:
        shared = stepper()
        long = asyncio.ensure_future(shared.run(work(log, "a", 100)))
        await asyncio.sleep(0)
        await shared.run(work(log, "b", 1))
        assert log == ["a0", "b0"]
        await long

    run(test())


def test_exceptions_of_a_step_are_raised_and_a_cancelled_job_ends() -> None:
    ended: list[str] = []

    def failing() -> Steps[None]:
        yield
        raise ValueError("no")

    def endless() -> Generator[None, None, None]:
        try:
            while True:
                yield
        finally:
            ended.append("it")

    async def test() -> None:
        shared = stepper()
        with pytest.raises(ValueError, match="no"):
            await shared.run(failing())
        job = asyncio.ensure_future(shared.run(endless()))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert ended == ["it"]
        assert await shared.run(work([], "a", 3)) == "a"

    run(test())


def test_concurrent_callers_share_a_result_and_later_callers_do_not() -> None:
    numbers: list[int] = []

    async def test() -> None:
        may_end = asyncio.Event()

        async def make() -> int:
            numbers.append(len(numbers))
            number = numbers[-1]
            await may_end.wait()
            return number

        shared: SharedResult[int] = SharedResult(make)
        first = asyncio.ensure_future(shared.get())
        await asyncio.sleep(0)
        later = [asyncio.ensure_future(shared.get()) for _ in range(3)]
        await asyncio.sleep(0)
        may_end.set()
        assert await asyncio.gather(first, *later) == [0, 1, 1, 1]
        assert await shared.get() == 2

    run(test())
    assert len(numbers) == 3
