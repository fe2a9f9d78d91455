"""Waiting for an answer, as long as somebody wants it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from clockwork.http.asgi import ClientGoneError, Presence

AnswerT = TypeVar("AnswerT")


async def unless_gone(asking: Coroutine[Any, Any, AnswerT], presence: Presence) -> AnswerT:
    """What ``asking`` returns; it is cancelled when the client goes away.

    Raises:
        ClientGoneError: it did.
    """
    if presence.is_gone():
        asking.close()
        raise ClientGoneError
    waiting = asyncio.current_task()
    assert waiting is not None
    presence.on_gone = waiting.cancel
    try:
        return await asking
    except asyncio.CancelledError:
        if not presence.is_gone():
            raise
        waiting.uncancel()
        raise ClientGoneError from None
    finally:
        presence.on_gone = None
