"""The order and the number of writes."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from clockwork.net.outbox import Outbox
from clockwork.net.write_queue import FLUSH_BYTES, WriteQueue
from clockwork.units import KIB

Buffer = bytes | memoryview


class Wire:
    """A transport that records writes; with ``stuck``, the peer does not read."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.stuck = False
        self.waiting = 0

    def write(self, data: Buffer) -> None:
        self.written.append(data)
        self.waiting += len(data) if self.stuck else 0

    def writelines(self, buffers: Iterable[Buffer]) -> None:
        self.written.append(list(buffers))
        self.waiting += sum(map(len, self.written[-1])) if self.stuck else 0

    def get_write_buffer_size(self) -> int:
        return self.waiting


def outgoing(wire: Any, max_bytes: int = 1 << 30) -> tuple[WriteQueue, list[str]]:
    overflows: list[str] = []
    return WriteQueue(wire, max_bytes, overflows.append), overflows


def test_frames_of_one_turn_of_the_loop_are_sent_in_one_write() -> None:
    async def test() -> None:
        wire = Wire()
        queue, _ = outgoing(wire)
        for i in range(5):
            queue.put([b"frame%d " % i])
        assert (wire.written, queue.waiting_bytes) == ([], 35)
        await asyncio.sleep(0)
        assert (wire.written, queue.waiting_bytes) == ([b"frame0 frame1 frame2 frame3 frame4 "], 0)
        queue.put([b"next turn"])
        await asyncio.sleep(0)
        assert wire.written[1:] == [b"next turn"]

    asyncio.run(test())


def test_queues_with_one_outbox_are_flushed_together() -> None:
    async def test() -> None:
        outbox, wires = Outbox(asyncio.get_running_loop()), [Wire(), Wire()]
        queues = [WriteQueue(cast(Any, wire), 1 << 30, lambda _: None, outbox) for wire in wires]
        for number in range(2):
            for queue in queues:
                queue.put([b"%d" % number])
        outbox.flush()
        assert [wire.written for wire in wires] == [[b"01"], [b"01"]]
        queues[0].put([b"2"])
        await asyncio.sleep(0)
        assert [wire.written for wire in wires] == [[b"01", b"2"], [b"01"]]

    asyncio.run(test())


def test_large_frames_are_sent_at_once_without_a_copy() -> None:
    async def test() -> None:
        wire = Wire()
        queue, _ = outgoing(wire)
        large = memoryview(bytearray(FLUSH_BYTES))
        queue.put([b"small"])
        queue.put([b"lengths", large])
        (buffers,) = wire.written
        assert buffers == [b"small", b"lengths", large]
        assert buffers[2] is large
        await asyncio.sleep(0)
        assert len(wire.written) == 1, "nothing is left for the end of the turn"

    asyncio.run(test())


def test_too_much_for_a_peer_that_does_not_read_is_reported() -> None:
    async def test() -> None:
        wire = Wire()
        wire.stuck = True
        queue, overflows = outgoing(wire, 200 * KIB)
        for _ in range(4):
            queue.put([bytes(64 * KIB)])
        assert overflows == []
        queue.put([bytes(64 * KIB)])
        assert overflows == ["the peer does not read: 256.0 KiB wait for it"]
        assert len(wire.written) == 4, "no more is added to what waits"

    asyncio.run(test())


def test_one_frame_may_be_longer_than_the_limit() -> None:
    async def test() -> None:
        wire = Wire()
        wire.stuck = True
        queue, overflows = outgoing(wire, 200 * KIB)
        queue.put([b"lengths", bytes(1000 * KIB)])
        assert (overflows, wire.waiting) == ([], 1000 * KIB + 7)
        wire.waiting = 0  # the peer reads
        queue.put([bytes(64 * KIB)])
        assert overflows == []

    asyncio.run(test())


def test_dropped_frames_are_not_sent() -> None:
    async def test() -> None:
        wire = Wire()
        queue, _ = outgoing(wire)
        queue.put([b"frame"])
        queue.drop()
        await asyncio.sleep(0)
        assert (wire.written, queue.waiting_bytes) == ([], 0)

    asyncio.run(test())
