"""A connection that sends many frames does not block the others."""

import asyncio
from itertools import chain
from typing import Any

import pytest

from clockwork.messages.requests import EvictRequest
from clockwork.net.connection import Connection
from clockwork.net.frame_queue import ENDED, MAX_TURN_BYTES, MAX_TURN_MESSAGES, MESSAGE, REFUSAL, FrameQueue
from clockwork.wire.frame import LARGE_BUFFER, Frame
from net.links import LOOPS, Ear, dialled, framed, listening, raw_peer, run

MANY = 5000


class Handler:
    """Records which frames `FrameQueue` hands out in each turn of the loop."""

    def __init__(self) -> None:
        self.by_turn: list[list[int]] = [[]]
        self.reading: list[bool] = []
        self.refuses = False
        self.last = -1  #: frame after which the connection is over
        self.turns = FrameQueue(self.handle, self.reading.append)

    def handle(self, frame: Frame) -> float:
        number = int(frame[0])
        self.by_turn[-1].append(number)
        if number == self.last:
            return ENDED
        return REFUSAL if self.refuses else MESSAGE

    async def next_turn(self) -> None:
        self.by_turn.append([])
        await asyncio.sleep(0)


def frames(*numbers: int, payload: bytes = b"") -> list[Frame]:
    return [(b"%d" % number, payload) for number in numbers]


def test_a_read_of_many_frames_takes_several_turns_in_order() -> None:
    async def test() -> None:
        handler = Handler()
        total = 3 * MAX_TURN_MESSAGES + 5
        handler.turns.take(frames(*range(total)), more=False)
        while len(handler.turns):
            await handler.next_turn()
        assert [len(turn) for turn in handler.by_turn] == [*[MAX_TURN_MESSAGES] * 3, 5]
        assert list(chain(*handler.by_turn)) == list(range(total))
        assert (handler.reading[0], handler.reading[-1], handler.reading.count(True)) == (False, True, 1)

    asyncio.run(test())


def test_reads_of_one_turn_are_counted_together() -> None:
    async def test() -> None:
        handler = Handler()
        for read in range(4):
            handler.turns.take(frames(*range(read * 32, read * 32 + 32)), more=True)
        assert (len(handler.by_turn[0]), len(handler.turns)) == (MAX_TURN_MESSAGES, 128 - MAX_TURN_MESSAGES)
        await handler.next_turn()
        assert (len(handler.by_turn[1]), len(handler.turns)) == (64, 0)
        await handler.next_turn()
        handler.turns.take(frames(128), more=False)
        assert list(chain(*handler.by_turn)) == list(range(129))

    asyncio.run(test())


def test_a_refused_message_counts_as_a_part_of_a_message() -> None:
    async def test() -> None:
        handler = Handler()
        handler.refuses = True
        total = round(3 * MAX_TURN_MESSAGES / REFUSAL) + 5
        handler.turns.take(frames(*range(total)), more=False)
        while len(handler.turns):
            await handler.next_turn()
        assert [len(turn) for turn in handler.by_turn] == [*[round(MAX_TURN_MESSAGES / REFUSAL)] * 3, 5]

    asyncio.run(test())


def test_bytes_are_limited_too() -> None:
    async def test() -> None:
        handler = Handler()
        payload = bytes(MAX_TURN_BYTES // 2)
        for number in range(5):
            handler.turns.take(frames(number, payload=payload), more=True)
        while len(handler.turns):
            await handler.next_turn()
        assert handler.by_turn == [[0, 1], [2, 3], [4]]

    asyncio.run(test())


def test_a_few_frames_are_handled_at_once_and_reading_goes_on() -> None:
    async def test() -> None:
        handler = Handler()
        handler.turns.take(frames(*range(MAX_TURN_MESSAGES)), more=False)
        assert (len(handler.by_turn[0]), handler.reading) == (MAX_TURN_MESSAGES, [])

    asyncio.run(test())


@pytest.mark.parametrize("more", [False, True])
def test_no_frame_after_the_last_one_is_handled(more: bool) -> None:
    async def test() -> None:
        handler = Handler()
        handler.last = 1
        handler.turns.take(frames(0, 1, 2, 3), more=more)
        await handler.next_turn()
        assert handler.by_turn == [[0, 1], []]

    asyncio.run(test())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_sends_thousands_of_requests_does_not_block_others(loop: str) -> None:
    async def test() -> None:
        order: list[int] = []
        other: list[Connection] = []

        def answer(connection: Connection, message: Any, payload: Any) -> None:
            order.append(message.id)
            if len(order) == MANY // 2:
                other[0].send(EvictRequest(-1, "m"))

        ear = Ear(answer)
        async with listening(ear) as server, raw_peer(server, greets=True) as greedy:
            other.append(await dialled(server, Ear()))
            greedy.send(b"".join(framed(EvictRequest(number, "m")) for number in range(MANY)))
            await ear.until(lambda: len(order) == MANY + 1)
            at = order.index(-1)
            assert [number for number in order if number >= 0] == list(range(MANY)), "each once, in order"
            assert at - MANY // 2 < 10 * MAX_TURN_MESSAGES < LARGE_BUFFER // len(framed(EvictRequest(MANY, "m")))
            other[0].close("done")

    run(test(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_is_paused_by_its_host_stays_paused_when_its_turn_comes(loop: str) -> None:
    async def test() -> None:
        def answer(connection: Connection, message: Any, payload: Any) -> None:
            if message.id == 0:
                connection.pause_reading()

        ear = Ear(answer)
        async with listening(ear) as server, raw_peer(server, greets=True) as greedy:
            greedy.send(b"".join(framed(EvictRequest(number, "m")) for number in range(MANY)))
            await ear.until(lambda: bool(ear.messages))
            for _ in range(2 * MANY // MAX_TURN_MESSAGES):
                await asyncio.sleep(0)
            handled = len(ear.messages)
            assert MAX_TURN_MESSAGES <= handled < MANY, "one read is handled, and no more is read"
            ear.connected[0].resume_reading()
            await ear.until(lambda: len(ear.messages) == MANY)

    run(test(), loop)
