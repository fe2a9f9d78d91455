"""The order in which requests that were read are handled."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from clockwork.controller.shedding import SEED_COST
from clockwork.host.inbox import PIECE, Inbox
from clockwork.units import Nanos, ms, seconds

ROOM = PIECE // SEED_COST
TURNS = 10
SLO = ms(100)


class StoppedClock:
    """Always shows the same time."""

    def now(self) -> Nanos:
        return 10**12


def run(test: Callable[[Inbox], Coroutine[Any, Any, None]]) -> None:
    async def with_inbox() -> None:
        await test(Inbox(asyncio.get_running_loop(), StoppedClock()))

    uvloop.run(with_inbox())


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def test_a_single_request_is_handled_at_once() -> None:
    async def test(inbox: Inbox) -> None:
        handled: list[int] = []
        assert inbox.put(lambda: handled.append(1), SLO) is None
        assert handled == [1]

    run(test)


def test_a_turn_handles_a_piece_and_the_rest_waits_in_order() -> None:
    async def test(inbox: Inbox) -> None:
        handled: list[int] = []
        for i in range(3 * ROOM):
            inbox.put(lambda i=i: handled.append(i), SLO)  # type: ignore[misc]
        assert handled == list(range(ROOM))
        assert inbox.shedder.waiting == 2 * ROOM
        lengths = [len(handled)]
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if len(handled) > lengths[-1]:
                lengths.append(len(handled))
        assert lengths == [ROOM, 2 * ROOM, 3 * ROOM]
        assert handled == list(range(3 * ROOM))

    run(test)


def test_other_work_runs_between_two_pieces() -> None:
    async def test(inbox: Inbox) -> None:
        order: list[str] = []
        for _ in range(2 * ROOM):
            inbox.put(lambda: order.append("request"), SLO)
        asyncio.get_running_loop().call_soon(order.append, "result")
        await turns()
        assert "result" in order
        assert order.count("request") == 2 * ROOM

    run(test)


def test_a_request_that_is_withdrawn_is_not_handled() -> None:
    async def test(inbox: Inbox) -> None:
        handled: list[int] = []
        waiting = [inbox.put(lambda i=i: handled.append(i), SLO) for i in range(ROOM + 3)]  # type: ignore[misc]
        second = waiting[ROOM + 1]
        assert second is not None
        assert second.withdraw()
        assert not second.withdraw()
        await turns()
        assert handled == [*range(ROOM + 1), ROOM + 2]

    run(test)


def test_a_new_turn_handles_requests_at_once_again() -> None:
    async def test(inbox: Inbox) -> None:
        handled: list[int] = []
        for i in range(ROOM):
            inbox.put(lambda i=i: handled.append(i), SLO)  # type: ignore[misc]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert inbox.put(lambda: handled.append(-1), SLO) is None
        assert handled[-1] == -1

    run(test)


def test_requests_with_long_slos_wait_longer_but_get_every_fourth_turn() -> None:
    async def test(inbox: Inbox) -> None:
        handled: list[str] = []
        for _ in range(ROOM):
            inbox.put(lambda: None, SLO)
        for _ in range(8):
            inbox.put(lambda: handled.append("patient"), seconds(60))
        for _ in range(8):
            inbox.put(lambda: handled.append("urgent"), SLO)
        await turns()
        assert "".join(name[0] for name in handled) == "uuupuuupuupppppp"

    run(test)


def test_a_handler_that_raises_does_not_stop_the_others() -> None:
    async def test(inbox: Inbox) -> None:
        handled: list[int] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        for _ in range(ROOM):
            inbox.put(lambda: None, SLO)
        inbox.put(lambda: 1 // 0, SLO)  # type: ignore[arg-type]
        inbox.put(lambda: handled.append(1), SLO)
        await turns()
        assert handled == [1]
        assert inbox.shedder.waiting == 0

    run(test)


def test_messages_are_sent_before_and_after_each_piece() -> None:
    async def test() -> None:
        order: list[str] = []
        inbox = Inbox(asyncio.get_running_loop(), StoppedClock(), lambda: order.append("sent"))
        for _ in range(2 * ROOM + 1):
            inbox.put(lambda: order.append("handled"), SLO)
        assert order == ["handled"] * ROOM
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert order[ROOM:] == ["sent", *["handled"] * ROOM, "sent", "sent", "handled", "sent"]

    uvloop.run(test())
