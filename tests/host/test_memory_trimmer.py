"""Memory that requests have freed is returned to the system while the server is idle."""

import asyncio

import pytest

from clockwork import malloc
from clockwork.host.memory_trimmer import MAX_FREE_BUSY, MemoryTrimmer
from clockwork.units import MIB
from http_raw import eventually


def test_free_memory_is_returned_once_when_nothing_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [2 * MIB]
    trimmed: list[int] = []
    idle = False

    def look() -> int:
        return free[0]

    def trim() -> None:
        trimmed.append(free[0])
        free[0] = 3 * MIB  # memory that cannot be returned

    monkeypatch.setattr(malloc, "free_bytes", look)
    monkeypatch.setattr(malloc, "trim", trim)
    monkeypatch.setattr(malloc, "resident_bytes", lambda: 200 * MIB)

    async def test() -> None:
        nonlocal idle
        trimming = MemoryTrimmer(lambda: idle, 0.0, 4 * MIB)
        free[0] = 100 * MIB
        trimming.start()
        for _ in range(10):
            await asyncio.sleep(0)
        assert trimmed == [], "something is pending"
        idle = True
        await eventually(lambda: len(trimmed) == 1)
        free[0] = 6 * MIB
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert trimmed == [100 * MIB], "it has grown by less than the limit"
        free[0] = 8 * MIB
        await eventually(lambda: len(trimmed) == 2)
        trimming.close()

    asyncio.run(asyncio.wait_for(test(), 30))


def test_only_large_free_memory_is_returned_while_requests_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [MAX_FREE_BUSY]
    looks: list[int] = []
    trimmed: list[int] = []

    def look() -> int:
        looks.append(free[0])
        return free[0]

    def trim() -> None:
        trimmed.append(free[0])
        free[0] = 0

    monkeypatch.setattr(malloc, "free_bytes", look)
    monkeypatch.setattr(malloc, "trim", trim)
    monkeypatch.setattr(malloc, "resident_bytes", lambda: 200 * MIB)

    async def test() -> None:
        trimming = MemoryTrimmer(lambda: False, 0.0, 4 * MIB)
        trimming.start()
        await eventually(lambda: len(looks) >= 2)
        assert trimmed == [], "that much is kept"
        free[0] += 1
        await eventually(lambda: bool(trimmed))
        trimming.close()

    asyncio.run(asyncio.wait_for(test(), 30))
    assert trimmed == [MAX_FREE_BUSY + 1]


def test_returned_memory_that_became_resident_between_two_checks_is_returned_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident, trimmed = [200 * MIB], list[int]()

    def trim() -> None:
        trimmed.append(resident[0])
        resident[0] = 50 * MIB

    monkeypatch.setattr(malloc, "free_bytes", lambda: 100 * MIB)
    monkeypatch.setattr(malloc, "trim", trim)
    monkeypatch.setattr(malloc, "resident_bytes", lambda: resident[0])

    async def test() -> None:
        trimming = MemoryTrimmer(lambda: True, 0.0, 4 * MIB)
        trimming.start()
        await eventually(lambda: trimmed == [200 * MIB, 50 * MIB])  # trims until nothing more is returned
        resident[0] = 120 * MIB
        await eventually(lambda: trimmed[2:] == [120 * MIB, 50 * MIB])
        trimming.close()

    asyncio.run(asyncio.wait_for(test(), 30))


def test_the_free_bytes_of_the_heap_are_known_with_glibc() -> None:
    assert malloc.free_bytes() >= 0
    malloc.trim()
    assert malloc.free_bytes() >= 0
