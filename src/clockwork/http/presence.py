"""Ends work for a client that has disconnected."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class ClientGoneError(Exception):
    """The client closed the connection before the reply was sent."""


class Presence:
    """Reports whether the client of a connection is still connected."""

    __slots__ = ("_gone", "is_awaited", "task")

    def __init__(self) -> None:
        """Start with a connected client."""
        self.task: asyncio.Task[None] | None = None  #: serves the request in progress
        self.is_awaited = False  #: whether `task` is cancelled when the client disconnects
        self._gone = False

    def is_gone(self) -> bool:
        """Return whether the client has disconnected."""
        return self._gone

    def leave(self) -> None:
        """Record that the client has disconnected, and cancel `task` if it waits in `unless_gone`."""
        self._gone = True
        if self.is_awaited and self.task is not None:
            self.task.cancel()


async def unless_gone(work: Coroutine[Any, Any, ResultT], presence: Presence) -> ResultT:
    """Return the result of ``work``. If the client disconnects before the result is known, cancel ``work``.

    Call this function in the task of ``presence``.

    Raises:
        ClientGoneError: the client has disconnected.
    """
    if presence.is_gone():
        work.close()
        raise ClientGoneError
    presence.is_awaited = True
    try:
        return await work
    except asyncio.CancelledError:
        if not presence.is_gone():
            raise
        assert presence.task is not None
        presence.task.uncancel()
        raise ClientGoneError from None
    finally:
        presence.is_awaited = False
