"""Waiting for an answer, as long as somebody wants it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from clockwork.http.asgi import ClientGoneError, Receive

WATCH_AFTER: Final = 0.002
"""Seconds; an answer that is there sooner does not pay for a task that looks whether it is still wanted."""

AnswerT = TypeVar("AnswerT")


async def unless_gone(asking: Coroutine[Any, Any, AnswerT], receive: Receive) -> AnswerT:
    """What ``asking`` returns; it is cancelled when the client goes away.

    Raises:
        ClientGoneError: it did.
    """
    waiting = asyncio.current_task()
    assert waiting is not None
    watch = _Watch(waiting, receive)
    try:
        return await asking
    except asyncio.CancelledError:
        if not watch.gone:
            raise
        waiting.uncancel()
        raise ClientGoneError from None
    finally:
        watch.end()


class _Watch:
    def __init__(self, waiting: asyncio.Task[Any], receive: Receive) -> None:
        self.gone = False
        self._waiting = waiting
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin)

    def end(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._waiting.cancel()
