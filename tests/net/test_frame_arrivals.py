"""The time from which the deadline of a native request counts."""

from typing import Any, cast

from clockwork.net.arrival import Arrivals
from clockwork.net.frame_arrivals import FrameArrivals
from clockwork.wire.frame import Frame

TRANSPORT = cast(Any, None)


class Turns:
    """A fake `Arrivals`: the test sets when a turn began and whether the loop slept before it."""

    def __init__(self) -> None:
        self.turn = 0
        self.at = 100
        self.slept = False

    def next(self, at: int, *, slept: bool = False) -> None:
        self.turn += 1
        self.at, self.slept = at, slept

    def earliest_arrival(self, transport: object = None, now: int | None = None) -> int:
        return self.at

    def follows(self, turn: int) -> bool:
        return self.turn - turn <= 1 and not self.slept


def made() -> tuple[Turns, FrameArrivals]:
    turns = Turns()
    return turns, FrameArrivals(cast(Arrivals, turns))


def read(arrivals: FrameArrivals, *frames: Frame, filled: bool = False, begun: bool = False) -> list[int]:
    arrivals.read(TRANSPORT, 0, filled=filled)
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
