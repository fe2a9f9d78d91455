"""Implements gRPC's health checking protocol.

Kubernetes' gRPC probes, load balancers and grpc_health_probe use this protocol.

Each service has the state SERVING while the server is ready. No event reports a change of the readiness, so the method
Watch checks the readiness every `POLL_INTERVAL` seconds. The number of Watch calls is limited.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

import grpc
from grpc.aio import ServicerContext

from clockwork.errors import InvalidRequestError
from clockwork.grpc_frontend import health_pb2 as pb
from clockwork.grpc_frontend.failures import abort
from clockwork.grpc_frontend.service import decode
from clockwork.messages.faults import quoted
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
"""The name of the service that gRPC's health checking protocol defines."""

MAX_WATCHERS: Final = 100
"""Largest number of Watch calls at a time. Further calls end with RESOURCE_EXHAUSTED."""

POLL_INTERVAL: Final = 0.25
"""Time in seconds between two checks of the server's readiness in a Watch call."""

_STATUS: Final = pb.HealthCheckResponse


class Health:
    """The methods of the health checking protocol for one server."""

    def __init__(self, is_ready: Callable[[], bool], services: tuple[str, ...]) -> None:
        """Create the health checking service.

        Args:
            is_ready: returns whether the server is ready.
            services: the names of services that clients may check. The empty name means the whole server.
        """
        self._is_ready = is_ready
        self._known = ("", *services, HEALTH_SERVICE)
        self._watchers = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all Watch calls with the state NOT_SERVING, because the server ends."""
        self._closing.set()

    async def check(self, data: bytes, call: ServicerContext) -> pb.HealthCheckResponse:
        """Return a service's state. If the service is unknown, the call ends with NOT_FOUND."""
        message = await _decoded(data, call)
        if message.service not in self._known:
            await call.abort(grpc.StatusCode.NOT_FOUND, self._unknown(message.service))
        return _STATUS(status=self._state(message.service))

    async def watch(self, data: bytes, call: ServicerContext) -> AsyncIterator[pb.HealthCheckResponse]:
        """Send a service's state at once and after each change. The state of an unknown service is SERVICE_UNKNOWN."""
        message = await _decoded(data, call)
        if self._watchers >= MAX_WATCHERS:
            text = f"the limit of {MAX_WATCHERS} calls of Watch is reached; call Check periodically instead"
            await call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._watchers += 1
        try:
            last = None
            while True:
                state = self._state(message.service)
                if state != last:
                    last = state
                    yield _STATUS(status=state)
                if self._closing.is_set():
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_INTERVAL):
                        await self._closing.wait()
        finally:
            self._watchers -= 1

    def _state(self, service: str) -> pb.HealthCheckResponse.ServingStatus:
        if service not in self._known:
            return _STATUS.SERVICE_UNKNOWN
        return _STATUS.SERVING if self._is_ready() and not self._closing.is_set() else _STATUS.NOT_SERVING

    def _unknown(self, service: str) -> str:
        return f"service {quoted(service)} is unknown; known services: {', '.join(filter(None, self._known))}"


async def _decoded(data: bytes, call: ServicerContext) -> Any:
    try:
        return decode(pb.HealthCheckRequest, data)
    except InvalidRequestError as error:
        return await abort(call, Failure.from_status(Status.INVALID_REQUEST, str(error)))
