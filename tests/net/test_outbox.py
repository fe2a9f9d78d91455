"""The order in which write queues are flushed."""

import asyncio

import pytest

from clockwork.net.outbox import Outbox


class Sender:
    def __init__(self, name: str, flushed: list[str]) -> None:
        self.name, self.flushed = name, flushed
        self.fails = False

    def flush_due(self) -> None:
        if self.fails:
            raise RuntimeError(self.name)
        self.flushed.append(self.name)


def test_queues_are_flushed_in_order_in_the_next_turn_or_at_once() -> None:
    async def test() -> None:
        flushed: list[str] = []
        outbox = Outbox(asyncio.get_running_loop())
        for name in "ab":
            outbox.add(Sender(name, flushed))
        assert flushed == []
        await asyncio.sleep(0)
        assert flushed == ["a", "b"]
        outbox.add(Sender("c", flushed))
        outbox.flush()
        assert flushed == ["a", "b", "c"]
        outbox.add(Sender("d", flushed))
        await asyncio.sleep(0)
        assert flushed == ["a", "b", "c", "d"], "each queue was flushed once"

    asyncio.run(test())


@pytest.mark.parametrize("at_once", [False, True])
def test_a_queue_that_fails_does_not_hold_back_the_others(at_once: bool) -> None:
    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        flushed: list[str] = []
        outbox = Outbox(asyncio.get_running_loop())
        broken = Sender("broken", flushed)
        broken.fails = True
        outbox.add(broken)
        outbox.add(Sender("a", flushed))
        if at_once:
            with pytest.raises(RuntimeError, match="broken"):
                outbox.flush()
        for _ in range(2):
            await asyncio.sleep(0)
        assert flushed == ["a"]

    asyncio.run(test())
