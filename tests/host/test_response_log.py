"""Broken promises and overload in the log: few lines, however many requests."""

import asyncio
import logging

import pytest

from client.live import run
from clockwork.host.response_log import MIN_OVERLOAD_REFUSALS, ResponseLog
from clockwork.messages.requests import InferResponse, RequestTiming
from clockwork.messages.status import Status
from http_raw import eventually

log = logging.getLogger("clockwork.test")


def answer(status: Status, *, admitted: bool = False, message: str = "") -> InferResponse:
    return InferResponse(1, int(status), message, (), RequestTiming(1), admitted=admitted)


def fields(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = record.__dict__["fields"]
    return found


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["event"] for record in caplog.records]


def test_broken_promises_are_one_line_at_once_and_then_one_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        trouble = ResponseLog(log, minute=0.02)
        for number in range(1000):
            trouble.answered(answer(Status.TIMEOUT, admitted=True, message=f"it took long {number}"))
        assert [fields(record) for record in caplog.records] == [{"count": 1, "reason": "it took long 0"}]
        await eventually(lambda: len(caplog.records) == 2)
        assert fields(caplog.records[1]) == {"count": 999, "reason": "it took long 999"}
        trouble.answered(answer(Status.TIMEOUT, admitted=True, message="the end"))
        trouble.close()

    with caplog.at_level(logging.INFO, "clockwork.test"):
        run(test())
    assert [record.getMessage() for record in caplog.records] == [
        "1 promise was broken; the last: it took long 0",
        "999 promises were broken; the last: it took long 999",
        "1 promise was broken; the last: the end",
    ]


def test_a_failure_without_a_promise_is_not_a_broken_promise(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        trouble = ResponseLog(log)
        trouble.answered(answer(Status.TIMEOUT))
        trouble.answered(answer(Status.SUCCESS, admitted=True))
        trouble.close()

    run(test())
    assert not caplog.records


def test_an_overload_begins_and_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        trouble = ResponseLog(log, period=0.02)
        for _ in range(500):
            trouble.answered(answer(Status.SKIPPED_BY_CONTROLLER))
            trouble.answered(answer(Status.SUCCESS))
        await eventually(lambda: events(caplog) == ["overload_begin"])
        for _ in range(MIN_OVERLOAD_REFUSALS):
            trouble.answered(answer(Status.CONTROLLER_COULD_NOT_START_IN_TIME))
        await eventually(lambda: len(caplog.records) == 2)
        trouble.close()

    with caplog.at_level(logging.INFO, "clockwork.test"):
        run(test())
    assert events(caplog) == ["overload_begin", "overload_end"]
    begun, ended = map(fields, caplog.records)
    assert (begun["refused"], begun["answered"]) == (500, 1000)
    assert ended["refused"] == 500 + MIN_OVERLOAD_REFUSALS


def test_a_few_refusals_are_not_an_overload(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        trouble = ResponseLog(log, period=0.001)
        for _ in range(MIN_OVERLOAD_REFUSALS - 1):
            trouble.answered(answer(Status.SKIPPED_BY_CONTROLLER))
        await asyncio.sleep(0.01)  # the end of a period would have been logged
        for _ in range(MIN_OVERLOAD_REFUSALS):  # the next period is counted separately
            trouble.answered(answer(Status.SKIPPED_BY_CONTROLLER))
        await eventually(lambda: bool(caplog.records))
        trouble.close()

    run(test())
    assert fields(caplog.records[0])["refused"] == MIN_OVERLOAD_REFUSALS  # the end of the overload may follow


def test_requests_that_are_refused_before_they_are_handled_count_as_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        trouble = ResponseLog(log, period=0.02)
        trouble.refused(MIN_OVERLOAD_REFUSALS)
        trouble.refused(1000)
        trouble.answered(answer(Status.SUCCESS))
        trouble.answered(answer(Status.SKIPPED_BY_CONTROLLER))
        await eventually(lambda: len(caplog.records) > 0)
        trouble.close()

    with caplog.at_level(logging.INFO, "clockwork.test"):
        run(test())
    found = fields(caplog.records[0])
    assert (found["refused"], found["answered"]) == (MIN_OVERLOAD_REFUSALS + 1001, MIN_OVERLOAD_REFUSALS + 1002)
