"""Transcripts of heartbeats: when a peer is pinged, and when it is given up."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clockwork.messages.link import Ping, Pong
from clockwork.net.heartbeat import FIRST_SAMPLES, LAST_READS, Heartbeat
from clockwork.units import FOREVER, Nanos, as_seconds, ms, us
from net.links import LOOPS, run


class SetClock:
    def __init__(self) -> None:
        self.at: Nanos = ms(1000)

    def now(self) -> Nanos:
        return self.at


class Transcript:
    """A heartbeat of 100 ms that gives up after 300 ms, and a record of its actions."""

    def __init__(self, *, measure_clock: bool = False, silent_after: Nanos = 0) -> None:
        self.clock = SetClock()
        self.pings: list[Ping] = []
        self.silence: list[str] = []
        self.silent: list[bool] = []
        self.heartbeat = Heartbeat(
            interval=ms(100),
            timeout=ms(300),
            measure_clock=measure_clock,
            clock=self.clock,
            send=self.pings.append,
            on_silence=self.silence.append,
            silent_after=silent_after,
            on_silent=self.silent.append,
        )
        self.heartbeat.start()

    async def tick(self, late: Nanos = 0, *, heard: bool = False) -> str:
        """One tick of the timer: ``ping``, ``quiet`` or ``gone``."""
        self.clock.at += ms(100) + late
        self.heartbeat.heard = heard
        pings = len(self.pings)
        self.heartbeat._tick()
        for _ in range(LAST_READS + 1):
            await asyncio.sleep(0)
        return "gone" if self.silence else "ping" if len(self.pings) > pings else "quiet"


def transcript(*ticks: bool | Nanos, measure_clock: bool = False, suspended: bool = False) -> list[str]:
    """Return what happens at each tick.

    A tick is True if bytes arrived before it. A number means that none did, and that the tick is late by that time.
    """

    async def play() -> list[str]:
        record = Transcript(measure_clock=measure_clock)
        record.heartbeat.suspended = suspended
        try:
            return [await (record.tick(heard=tick) if isinstance(tick, bool) else record.tick(tick)) for tick in ticks]
        finally:
            record.heartbeat.stop()

    return asyncio.run(play())


def test_a_peer_that_sends_is_not_pinged() -> None:
    assert transcript(True, True, True) == ["quiet", "quiet", "quiet"]


def test_a_silent_peer_is_pinged_and_then_given_up() -> None:
    assert transcript(False, False, False) == ["ping", "ping", "gone"]


def test_any_received_byte_is_a_sign_of_life() -> None:
    assert transcript(False, False, True, False, False, False) == ["ping", "ping", "quiet", "ping", "ping", "gone"]


def test_time_in_which_this_side_stood_still_does_not_count_against_the_peer() -> None:
    assert transcript(ms(5000), False, False) == ["ping", "ping", "gone"]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("spoke", [True, False])
def test_bytes_that_arrived_while_this_side_stood_still_are_read_before_the_peer_is_given_up(
    loop: str, spoke: bool
) -> None:
    async def test() -> None:
        record = Transcript()
        judged = asyncio.Event()
        record.heartbeat._on_silence = record.heartbeat._send = lambda _: judged.set()  # type: ignore[assignment]
        with pair() as (ours, theirs), pair() as (wakes, waker):

            def read() -> None:
                record.heartbeat.heard = bool(ours.recv(1))

            def stand_still() -> None:
                wakes.recv(1)
                if spoke:
                    theirs.send(b"x")
                time.sleep(as_seconds(ms(150)))  # until the timer is due, within the loop's turn to read

            asyncio.get_running_loop().add_reader(ours, read)
            asyncio.get_running_loop().add_reader(wakes, stand_still)
            record.clock.at += ms(300)  # the tick is on time, so all of the silence counts
            record.heartbeat._due = record.clock.at
            waker.send(b"x")
            for _ in range(10):
                await asyncio.sleep(0)
            assert judged.is_set() is not spoke
            record.heartbeat.stop()

    run(test(), loop)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    try:
        yield ours, theirs
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        ours.close()
        theirs.close()


def test_a_peer_is_not_silent_while_this_side_does_not_read() -> None:
    assert transcript(*[False] * 9, suspended=True) == ["quiet"] * 9


def test_a_side_that_measures_the_clock_always_pings() -> None:
    assert transcript(True, True, measure_clock=True) == ["ping", "ping"]


def silences(*ticks: bool | Nanos, silent_after: Nanos = ms(190), suspended: bool = False) -> list[bool]:
    """Return the changes of the reported silence; ticks are as in `transcript`."""

    async def play() -> list[bool]:
        record = Transcript(silent_after=silent_after)
        record.heartbeat.suspended = suspended
        for tick in ticks:
            await (record.tick(heard=tick) if isinstance(tick, bool) else record.tick(tick))
        record.heartbeat.stop()
        return record.silent

    return asyncio.run(play())


def test_a_peer_is_silent_long_before_it_is_given_up_and_until_it_is_heard() -> None:
    assert silences(True, False) == []
    assert silences(True, False, False) == [True]
    assert silences(True, False, False, True, True) == [True, False]
    assert silences(True, False, False, True, False, False) == [True, False, True]


def test_silence_is_not_reported_if_it_is_disabled() -> None:
    assert silences(True, False, False, silent_after=0) == []


def test_a_peer_is_not_silent_while_this_side_is_stopped_or_does_not_read() -> None:
    assert silences(True, ms(5000), True) == []
    assert silences(True, *[False] * 5, suspended=True) == []


def test_the_first_pings_follow_each_other_at_once() -> None:
    async def play() -> None:
        record = Transcript(measure_clock=True)
        answered = 0
        while answered < len(record.pings):
            ping = record.pings[answered]
            answered += 1
            record.clock.at += us(50)
            record.heartbeat.pong(
                Pong(ping.sent, ping.sent + us(25) + ms(7), ping.sent + us(25) + ms(7)), record.clock.at
            )
        record.heartbeat.stop()
        assert answered == FIRST_SAMPLES
        assert record.heartbeat.clock_offset.offset_ns == ms(7)
        assert record.heartbeat.clock_offset.error_ns(record.clock.at) < us(26) < FOREVER

    asyncio.run(play())


def test_a_stopped_heartbeat_sends_nothing() -> None:
    async def play() -> None:
        record = Transcript()
        record.heartbeat.stop()
        record.heartbeat.stop()
        await asyncio.sleep(0.15)
        assert record.pings == []

    asyncio.run(play())
