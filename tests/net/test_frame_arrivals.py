"""The time from which the deadline of a native request counts."""

import asyncio
import socket
from contextlib import closing, suppress
from typing import Any, cast

import uvloop

from clockwork.clock import MonotonicClock
from clockwork.net.arrival import Arrivals
from clockwork.net.frame_arrivals import FrameArrivals
from clockwork.wire.frame import LARGE_BUFFER, Frame

CLOCK = MonotonicClock()
TRANSPORT = cast(Any, None)


class Turns:
    """A fake `Arrivals`: the test sets when a turn began and whether the loop slept before it."""

    def __init__(self) -> None:
        self.turn = 0
        self.at = 100
        self.slept = False
        self.window = 64_000

    def next(self, at: int, *, slept: bool = False) -> None:
        self.turn += 1
        self.at, self.slept = at, slept

    def earliest_arrival(self, transport: object = None, now: int | None = None) -> int:
        return self.at

    def max_window(self, transport: object) -> int:
        return self.window

    def follows(self, turn: int) -> bool:
        return self.turn - turn <= 1 and not self.slept


def made() -> tuple[Turns, FrameArrivals]:
    turns = Turns()
    return turns, FrameArrivals(cast(Arrivals, turns))


def read(
    arrivals: FrameArrivals, *frames: Frame, nbytes: int = 100, filled: bool = False, begun: bool = False
) -> list[int]:
    arrivals.read(TRANSPORT, 0, nbytes, filled=filled)
    arrivals.parsed(list(frames), begun=begun)
    return [arrivals.of(frame) for frame in frames]


def frame(name: bytes) -> Frame:
    return name, b""


def test_bytes_that_a_full_buffer_left_in_the_kernel_are_as_old_as_those_that_were_read() -> None:
    turns, arrivals = made()
    turns.next(200, slept=True)
    assert read(arrivals, frame(b"a"), filled=True) == [200]
    turns.next(300)
    assert read(arrivals, frame(b"b")) == [200]
    turns.next(400)
    assert read(arrivals, frame(b"c")) == [400]


def test_a_request_after_a_long_one_does_not_count_from_the_long_one() -> None:
    """A read that completes a long frame always fills its buffer, whether or not more bytes have arrived."""
    turns, arrivals = made()
    turns.next(200, slept=True)
    assert read(arrivals, frame(b"long"), filled=True) == [200]
    turns.next(900, slept=True)
    assert read(arrivals, frame(b"short")) == [900]

    turns.next(1000)
    assert read(arrivals, frame(b"long"), filled=True) == [1000]
    turns.next(1100)  # another connection was read, and the poll did not report this one
    turns.next(1200)
    assert read(arrivals, frame(b"short")) == [1200]


def test_a_frame_counts_from_its_first_byte_and_the_next_frame_does_not() -> None:
    turns, arrivals = made()
    turns.next(200, slept=True)
    assert read(arrivals, begun=True) == []
    turns.next(5_000, slept=True)
    assert read(arrivals, begun=True) == []
    turns.next(9_000, slept=True)
    assert read(arrivals, frame(b"slow"), frame(b"next"), begun=True) == [200, 9_000]
    turns.next(9_500, slept=True)
    assert read(arrivals, frame(b"third")) == [9_000]


def test_bytes_that_waited_while_the_connection_was_not_read_are_as_old_as_its_last_read() -> None:
    turns, arrivals = made()
    turns.next(200, slept=True)
    assert read(arrivals, frame(b"a")) == [200]
    turns.next(300)
    turns.next(400)
    arrivals.resumed()
    turns.next(500)
    assert read(arrivals, frame(b"b")) == [200]


def test_bytes_that_a_closed_window_has_held_back_are_as_old_as_those_that_closed_it() -> None:
    turns, arrivals = made()
    turns.next(200, slept=True)
    assert read(arrivals, frame(b"a"), nbytes=40_000) == [200]
    turns.next(300)
    assert read(arrivals, frame(b"b"), nbytes=40_000) == [200], "the client's kernel may have held these bytes"
    turns.next(400)
    assert read(arrivals, frame(b"c"), nbytes=1_000) == [200]
    turns.next(500)
    assert read(arrivals, frame(b"d"), nbytes=40_000) == [500], "the last read did not empty a full window"
    turns.next(600, slept=True)
    assert read(arrivals, frame(b"e")) == [600], "the client has sent nothing more for a while"


def test_a_read_that_enlarges_the_window_may_have_emptied_it() -> None:
    turns, arrivals = made()
    turns.next(200, slept=True)
    assert read(arrivals, frame(b"a"), nbytes=40_000) == [200]
    turns.next(300, slept=True)
    turns.window = 2_000_000
    assert read(arrivals, frame(b"b"), nbytes=60_000) == [300]
    turns.next(400)
    assert read(arrivals, frame(b"c"), nbytes=500_000) == [300]
    turns.next(500)
    assert read(arrivals, frame(b"d"), nbytes=500_000) == [500], "half of the larger window was free"


def test_all_reads_of_a_turn_count_towards_the_window() -> None:
    turns, arrivals = made()
    turns.next(200, slept=True)
    for _ in range(2):
        assert read(arrivals, frame(b"a"), nbytes=20_000) == [200]
    turns.next(300)
    assert read(arrivals, frame(b"b"), nbytes=20_000) == [200]
    turns.next(400)
    assert read(arrivals, frame(b"c"), nbytes=20_000) == [400]


class Reads(asyncio.BufferedProtocol):
    """Records how many bytes were read, and the arrival time of each read."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._measures = arrivals
        self._buffer = bytearray(LARGE_BUFFER)
        self.total = 0
        self.arrived: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._arrivals = FrameArrivals(self._measures)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.total += nbytes
        self._arrivals.read(self.transport, CLOCK.now(), nbytes, filled=nbytes == len(self._buffer))
        self.arrived.append(self._arrivals.last)


def test_bytes_that_the_client_s_kernel_has_held_back_do_not_count_as_new() -> None:
    """The client sends until neither kernel takes more bytes. The loop reads them in several turns without a sleep."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with closing(Arrivals(loop)) as arrivals:
            reads = Reads(arrivals)
            server = await loop.create_server(lambda: reads, "127.0.0.1", 0)
            with socket.create_connection(server.sockets[0].getsockname()) as client:
                client.send(b"first")
                while not reads.total:  # noqa: ASYNC110 - the loop must not sleep
                    await asyncio.sleep(0)
                client.setblocking(False)
                total, before = reads.total, len(reads.arrived)
                with suppress(BlockingIOError):
                    while True:
                        total += client.send(bytes(1 << 20))
                end = CLOCK.now()
                while reads.total < total:  # noqa: ASYNC110 - the loop must not sleep
                    await asyncio.sleep(0)
            server.close()
            reads.transport.close()
            assert len(reads.arrived) - before > 1
            assert max(reads.arrived[before:]) <= end

    uvloop.run(test())
