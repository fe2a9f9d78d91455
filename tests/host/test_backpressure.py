"""The order in which connections are read when reading takes too long."""

import asyncio

import uvloop

from clockwork.host.backpressure import MIN_BATCH, READING, Backpressure
from clockwork.units import Nanos


class Took:
    def __init__(self, nanos: Nanos) -> None:
        self.reading_took = nanos


class Connections:
    def __init__(self) -> None:
        self.resumed: list[int] = []

    def one(self, number: int) -> "Connection":
        return Connection(self, number)


class Connection:
    def __init__(self, all_of_them: Connections, number: int) -> None:
        self._all = all_of_them
        self._number = number

    def read_again(self) -> None:
        self._all.resumed.append(self._number)


def test_nothing_is_paused_while_reading_is_quick() -> None:
    async def test() -> None:
        assert not Backpressure(asyncio.get_running_loop(), Took(READING)).is_needed

    uvloop.run(test())


def test_most_connections_are_read_last_in_first_out_and_some_in_order() -> None:
    async def test() -> None:
        connections = Connections()
        backpressure = Backpressure(asyncio.get_running_loop(), Took(READING + 1))
        assert backpressure.is_needed
        for i in range(1000):
            backpressure.pause(connections.one(i))
        for _ in range(1000 // MIN_BATCH + 2):
            await asyncio.sleep(0)
        assert connections.resumed[:8] == [0, 999, 998, 997, 1, 996, 995, 994]
        assert sorted(connections.resumed) == list(range(1000))

    uvloop.run(test())


def test_fewer_connections_are_read_per_turn_while_reading_takes_too_long() -> None:
    async def batches(took: Nanos) -> list[int]:
        connections = Connections()
        backpressure = Backpressure(asyncio.get_running_loop(), Took(took))
        for i in range(1000):
            backpressure.pause(connections.one(i))
        sizes, before = [], 0
        for _ in range(5):
            await asyncio.sleep(0)
            sizes.append(len(connections.resumed) - before)
            before = len(connections.resumed)
        return sizes

    assert uvloop.run(batches(READING + 1)) == sorted(uvloop.run(batches(READING + 1)), reverse=True)
    assert uvloop.run(batches(READING // 2)) == sorted(uvloop.run(batches(READING // 2)))
    assert uvloop.run(batches(READING + 1))[-1] < uvloop.run(batches(READING // 2))[-1]


def test_backpressure_is_needed_until_all_connections_are_read() -> None:
    async def test() -> None:
        took = Took(READING + 1)
        backpressure = Backpressure(asyncio.get_running_loop(), took)
        for i in range(1000):
            backpressure.pause(Connections().one(i))
        took.reading_took = 0
        assert backpressure.is_needed
        for _ in range(100):
            await asyncio.sleep(0)
        assert not backpressure.is_needed

    uvloop.run(test())
