"""Takes many calls from gRPC in one turn of the event loop, and records when each call was taken.

A server requests calls from gRPC's core. The core answers such a request when a client makes a call. grpc.aio requests
only one call of each method at a time, and requests the next call in a later turn of the event loop. So grpc.aio takes
at most one call in two or three turns. All further calls wait in the core, where the server cannot see them. These
calls would reach the scheduler one by one, so that every batch would have one request.

`Acceptors` always have several outstanding requests for calls of one method. In one turn of the loop, they take all
calls that have arrived since the previous turn. With 64 small calls in flight on one core, a call takes 71 us of
processor time instead of 99 us. Most of the difference is time for context switches.

This module uses private functions of grpcio. If a release of grpcio lacks one of these functions, `can_take_many`
returns false, and grpc.aio takes the calls one by one.
"""

import asyncio
import inspect
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import grpc
from grpc._cython import cygrpc

from clockwork.controller.shedding import Shed
from clockwork.frontend import failure_of_shed
from clockwork.grpc_frontend.failures import abort
from clockwork.host.reception import Reception
from clockwork.units import Nanos, seconds

ARRIVED: Final[ContextVar[Nanos]] = ContextVar("arrived")
"""The time at which the call of the current task was taken from gRPC's core. The call's message is read later.

The variable is not set if grpc.aio took the call.
"""

REQUESTED: Final = 64
"""Number of calls that are requested from the core at a time. Each requested call takes a kilobyte of memory."""

_EXPECTED: Final = {
    "_handle_rpc": ["method_name", "method_resolver", "interceptors", "rpc_state", "loop", "concurrency_exceeded"],
    "_schedule_rpc_coro": ["rpc_coro", "rpc_state", "loop", "method_name"],
    "AioServer._request_registered_call": ["self", "method"],
}
"""The parameters of grpcio's private functions that this module calls."""

MAX_REMAINING: Final = 3600.0
"""Longest time to a call's deadline that is considered, in seconds. A longer time is treated as this time."""

log = logging.getLogger("clockwork.grpc")


class _Resolver:
    """Returns the handler of a call to grpcio, in the form that grpcio expects."""

    def __init__(self, handler: grpc.RpcMethodHandler) -> None:
        self._handler = handler

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._handler


class Acceptors:
    """Tasks that request calls of one method of a running server until the server ends."""

    def __init__(
        self,
        server: grpc.aio.Server,
        method: str,
        handler: grpc.RpcMethodHandler,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        reception: Reception,
        max_calls: int,
    ) -> None:
        """Start the tasks that request calls.

        Args:
            server: a server that has been started. ``method`` is registered with the server.
            method: the full name of the method.
            handler: serves the method's calls.
            interceptors: the server's interceptors.
            reception: queues the calls, and determines when a call arrived and whether the call is too late.
            max_calls: number of calls that are served at a time; further calls end at once with RESOURCE_EXHAUSTED.
        """
        self._server: Any = server._server  # noqa: SLF001 - grpcio has no public function for this
        self._method = method
        self._resolver = _Resolver(handler)
        self._interceptors = tuple(interceptors)
        self._reception = reception
        self._max_calls = max_calls
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._acceptors = [self._loop.create_task(self._accept()) for _ in range(REQUESTED)]

    async def wait_closed(self) -> None:
        """Wait until all tasks have ended. The tasks end when the server is closed."""
        await asyncio.gather(*self._acceptors, return_exceptions=True)

    async def _accept(self) -> None:
        name = self._method.encode()
        while True:
            try:
                call = await self._server._request_registered_call(name)  # noqa: SLF001 - no public function exists
            except Exception:  # noqa: BLE001 - grpcio raises a private type when the server ends
                return
            if (shed := self._too_late(call)) is not None:
                self._run(_refuse(self._context(call), shed), call)
            else:
                self._reception.put(partial(self._serve, call, self._reception.arrivals.earliest_arrival()), "")

    def _context(self, call: Any) -> Any:
        return cygrpc._ServicerContext(call, None, None, self._loop)  # noqa: SLF001 - no public function exists

    def _too_late(self, call: Any) -> Shed | None:
        """Return a refusal if a call that has no handler yet has waited in the core for too long, else None."""
        if not self._reception.is_behind():
            return None
        remaining = self._context(call).time_remaining()
        return None if remaining is None else self._reception.refuses_late(seconds(min(remaining, MAX_REMAINING)))

    def _serve(self, call: Any, arrived: Nanos) -> None:
        ARRIVED.set(arrived)  # the call's task copies this context
        full = len(self._calls) >= self._max_calls
        served = cygrpc._handle_rpc(  # noqa: SLF001 - no public function exists
            self._method, self._resolver, self._interceptors, call, self._loop, full
        )
        self._run(served, call)

    def _run(self, served: Coroutine[Any, Any, None], call: Any) -> None:
        task = self._loop.create_task(
            cygrpc._schedule_rpc_coro(served, call, self._loop, self._method)  # noqa: SLF001 - no public function exists
        )
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


async def _refuse(context: Any, shed: Shed) -> None:
    with suppress(grpc.aio.AbortError, grpc.RpcError):  # the call has ended, or its client has disconnected
        await abort(context, failure_of_shed(shed))


def can_take_many() -> bool:
    """Return whether this release of grpcio has the private functions that `Acceptors` need."""
    return all(_parameters(name) == expected for name, expected in _EXPECTED.items())


def _parameters(name: str) -> list[str]:
    found: Any = cygrpc
    for part in name.split("."):
        found = getattr(found, part, None)
    try:
        return list(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        return []
