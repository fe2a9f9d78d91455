"""Snapshots are made once for all viewers, only for viewers, and within a limit of time."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.description import Description
from clockwork.controller.recent import LONG_PERIOD, SHORT_PERIOD
from clockwork.dashboard.feed import MAX_INTERVAL, MAX_SHARE, MIN_INTERVAL, Feed, ViewersFullError, pause
from clockwork.dashboard.history import LENGTH, History
from clockwork.dashboard.log_lines import MAX_LINES, MAX_TEXT, LogLines
from clockwork.dashboard.snapshot import ModelRows, devices_section
from clockwork.dashboard.timeline import MAX_ENDED, TimelineSection
from clockwork.messages.findings import Finding, Level
from clockwork.messages.timeline import Timeline, TimelineAction
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.stepping import Stepper
from clockwork.steps import at_once
from clockwork.units import MILLISECOND, SECOND, Nanos, seconds
from cluster import Cluster, serving
from dashboard.streams import decoded
from fake_worker import File
from served import FILES


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


async def no_timeline(after: int, limit: int) -> Timeline | None:
    return None


class Described:
    """Describes a cluster that is serving, and counts the descriptions."""

    def __init__(self) -> None:
        self.cluster = serving(SimpleScheduler(), FILES)
        self.count = 0
        self.broken = False

    def __call__(self) -> Description:
        self.count += 1
        if self.broken:
            raise RuntimeError("broken")
        self.cluster.run_until(self.cluster.now + 200 * MILLISECOND)
        return self.cluster.controller.description(self.cluster.now)

    def feed(self, **settings: Any) -> Feed:
        return Feed(self, no_timeline, Stepper(), LogLines(), **settings)


def message(event: bytes | None) -> dict[str, Any]:
    assert event is not None
    return decoded(event)


def test_nothing_is_made_without_a_viewer() -> None:
    async def test() -> None:
        server = Described()
        feed = server.feed()
        before = asyncio.all_tasks()
        await asyncio.sleep(0)
        assert not server.count
        with feed.viewing() as viewer:
            await viewer.next()
        assert server.count == 1
        making = asyncio.all_tasks() - before
        await asyncio.gather(*making, return_exceptions=True)
        await asyncio.sleep(0)
        assert server.count == 1

    run(test())


def test_all_viewers_share_one_snapshot() -> None:
    async def test() -> None:
        server = Described()
        feed = server.feed()
        with feed.viewing() as one, feed.viewing() as other:
            first = await asyncio.gather(one.next(), other.next())
            second = await asyncio.gather(one.next(), other.next())
        assert first[0] is first[1]
        assert second[0] is second[1]
        assert server.count == 2

    run(test())


def test_a_viewer_that_missed_a_message_gets_every_section() -> None:
    async def test() -> None:
        with Described().feed().viewing() as viewer:
            assert message(await viewer.next())["whole"]
            assert "whole" not in message(await viewer.next())
            viewer.miss()
            again = message(await viewer.next())
            assert again["whole"]
            assert {"server", "devices", "models", "history", "log"} <= set(again)

    run(test())


def test_a_later_viewer_gets_what_earlier_snapshots_contain() -> None:
    async def test() -> None:
        feed = Described().feed()
        with feed.viewing() as one:
            await one.next()
            await one.next()
            with feed.viewing() as other:
                found = message(await other.next())
                assert found["whole"]
                assert [model["model"] for model in found["models"]] == ["a"]

    run(test())


def test_viewers_beyond_the_limit_are_refused() -> None:
    async def test() -> None:
        feed = Described().feed(max_viewers=1)
        with feed.viewing():
            with pytest.raises(ViewersFullError, match=r"viewer limit reached \(1\)"), feed.viewing():
                pass
            assert feed.viewers == 1
        assert feed.viewers == 0

    run(test())


def test_viewers_see_the_end_of_a_closed_feed() -> None:
    async def test() -> None:
        feed = Described().feed()
        with feed.viewing() as viewer:
            await viewer.next()
            waiting = asyncio.ensure_future(viewer.next())
            await asyncio.sleep(0)
            feed.close()
            assert await waiting is None
        with feed.viewing() as viewer:
            assert await viewer.next() is None

    run(test())


def test_a_failed_snapshot_ends_the_streams_and_the_next_viewer_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        server = Described()
        feed = server.feed()
        server.broken = True
        with caplog.at_level(logging.ERROR), feed.viewing() as viewer:
            assert await viewer.next() is None
        assert "a snapshot failed" in caplog.text
        server.broken = False
        with feed.viewing() as viewer:
            assert message(await viewer.next())["whole"]

    run(test())


@pytest.mark.parametrize(
    ("spent", "interval"),
    [
        (0, MIN_INTERVAL),
        (MILLISECOND, MIN_INTERVAL),
        (5 * MILLISECOND, round(5 * MILLISECOND / MAX_SHARE)),
        (SECOND, MAX_INTERVAL),
    ],
)
def test_the_interval_grows_with_the_time_of_a_snapshot(spent: Nanos, interval: Nanos) -> None:
    assert pause(spent, 0) == interval
    assert pause(spent, interval) == 0


# ------------------------------------------------------------------------------------------------------- models


def many(count: int) -> Cluster:
    return serving(SimpleScheduler(), {f"m{number:02}.onnx": File() for number in range(count)}, pages=100)


def turn(rows: ModelRows, server: Description) -> tuple[list[str], bool]:
    made, ended = at_once(rows.next(server))
    return [decoded(b"data: " + bytes(row) + b"\n\n")["model"] for row in made], ended


def test_each_snapshot_describes_a_limited_number_of_models_in_turns() -> None:
    server = many(5).controller.description(seconds(100))
    rows = ModelRows(2, 100)
    assert turn(rows, server) == (["m00", "m01"], False)
    assert turn(rows, server) == (["m02", "m03"], False)
    assert len(rows.all()) == 4
    assert turn(rows, server) == (["m04"], True)
    assert turn(rows, server) == (["m00", "m01"], False)
    assert len(rows.all()) == 5


def test_models_beyond_the_limit_are_counted() -> None:
    server = many(5).controller.description(seconds(100))
    rows = ModelRows(10, 3)
    assert turn(rows, server) == (["m00", "m01", "m02"], True)
    assert rows.others == 2
    assert len(rows.all()) == 3


def test_a_snapshot_changes_nothing_that_the_status_shows() -> None:
    cluster = many(2)
    server = cluster.controller.description(cluster.now)
    before = server.server()
    at_once(ModelRows(10, 10).next(server))
    assert cluster.controller.description(cluster.now).server() == before


def test_the_first_device_of_a_worker_has_what_the_worker_found_on_its_machine() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    (worker,) = cluster.controller.description(cluster.now).fleet.values()
    worker.findings = (Finding("swap", Level.BAD, "1 GiB in use", "slow", "swapoff -a"),)
    section = at_once(devices_section(cluster.controller.description(cluster.now)))
    assert [device["findings"] for device in msgspec.json.decode(section)] == [
        [["swap", "bad", "1 GiB in use", "slow", "swapoff -a"]]
    ]


# ------------------------------------------------------------------------------------------------------ history


def test_a_point_of_the_history_has_the_requests_of_its_period_and_their_reasons() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    history = History()
    at_once(history.update(cluster.controller.description(cluster.now)))
    begin = (cluster.now // SHORT_PERIOD + 1) * SHORT_PERIOD
    cluster.run_until(begin)
    for number in range(3):
        cluster.ask(infer_request(number + 1, "a"))
    cluster.run_until(begin + SHORT_PERIOD)
    added = at_once(history.update(cluster.controller.description(cluster.now)))
    assert sum(point.in_time for point in added) == 3
    assert not at_once(history.update(cluster.controller.description(cluster.now)))
    assert max(point.p99 for point in added) > 0


def test_the_history_begins_with_the_requests_before_the_first_viewer_and_ends_after_5_minutes() -> None:
    cluster = serving(SimpleScheduler(), FILES)
    cluster.ask(infer_request(1, "a"))
    cluster.run_until(cluster.now + 3 * LONG_PERIOD)
    history = History()
    points = at_once(history.update(cluster.controller.description(cluster.now)))
    assert sum(point.in_time for point in points) == 1
    assert [point.end for point in points] == sorted(point.end for point in points)
    assert {point.width for point in points} == {2000.0, 30_000.0}
    cluster.run_until(cluster.now + LENGTH)
    at_once(history.update(cluster.controller.description(cluster.now)))
    assert not sum(point.in_time for point in history.points)
    assert all(point.end >= (cluster.now - LENGTH) / MILLISECOND for point in history.points)


# ----------------------------------------------------------------------------------------------------- timeline


def action(number: int, **more: Any) -> TimelineAction:
    return TimelineAction(number, number, "w0/gpu0", "infer", "m", requests=(f"r{number}",), rows=2, **more)


def test_the_timeline_continues_after_the_last_action_and_counts_what_is_left_out() -> None:
    asked: list[int] = []
    known = iter([(10, 10), (310, 2000), (4000, 4000)])

    async def read(after: int, limit: int) -> Timeline:
        asked.append(after)
        last, latest = next(known)
        ended = action(last, begin=MILLISECOND, end=3 * MILLISECOND)
        return Timeline(0, last, latest, devices=("w0/gpu0",), ended=(ended,))

    async def test() -> None:
        section = TimelineSection(read)
        found = []
        for _ in range(3):
            timeline = await section.read()
            assert timeline is not None
            found.append(at_once(section.described(timeline)))
        assert asked == [0, 10, 2000 + 1990 - MAX_ENDED]
        assert [each["omitted"] for each in found] == [0, 1690, 1690]
        assert found[0]["devices"][0]["done"] == [["r10", 0, "m", 1.0, 3.0, 0.0, 2, 0]]

    run(test())


def test_actions_without_a_time_and_failed_actions_are_not_drawn() -> None:
    async def read(after: int, limit: int) -> Timeline:
        planned = {"planned_begin": 5 * MILLISECOND, "planned_end": 9 * MILLISECOND}
        upcoming = (action(1), action(2, **planned, late=1), action(3, status="ERROR", **planned))
        evicted = replace(action(4, begin=1, end=2), kind="evict")
        elsewhere = replace(action(5, begin=1, end=2), device="gone")
        return Timeline(0, 1, 1, at_risk=1, devices=("w0/gpu0",), ended=(evicted, elsewhere), upcoming=upcoming)

    async def test() -> None:
        section = TimelineSection(read)
        timeline = await section.read()
        assert timeline is not None
        found = at_once(section.described(timeline))
        assert found["at_risk"] == 1
        expected = [["r2", 0, "m", 5.0, 9.0, 4.0, 2, 1]]
        assert found["devices"] == [{"device": "w0/gpu0", "done": [], "next": expected}]

    run(test())


# ---------------------------------------------------------------------------------------------------------- log


def test_the_last_lines_of_the_log_are_kept_while_the_context_lasts() -> None:
    log = logging.getLogger("clockwork.test")
    log.setLevel(logging.INFO)
    with LogLines() as lines:
        for number in range(MAX_LINES + 10):
            log.info("line %d", number, extra={"event": "tested"})
        kept = lines.after(0)
        assert len(kept) == MAX_LINES
        assert (kept[-1].text, kept[-1].event, kept[-1].level) == (f"line {MAX_LINES + 9}", "tested", "info")
        log.error("x" * 10_000)
        (last,) = lines.after(kept[-1].number)
        assert len(last.text) == MAX_TEXT
        # pytest cannot report a line of this kind, so the handler gets it directly
        lines.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "file b\udcff", (), None))
        (last,) = lines.after(last.number)
        assert last.text == r"file b\udcff", "a name that is not UTF-8 can be sent"
    log.error("later")
    assert not lines.after(last.number)
    log.setLevel(logging.NOTSET)
