"""gRPC's health checking protocol, which Kubernetes' gRPC probes, load balancers and grpc_health_probe use.

Each service is SERVING while the server is ready. The server does not announce changes of its readiness, so Watch polls
it every `POLL_INTERVAL` seconds. The number of calls of Watch is limited.
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
"""The service's name in gRPC's health checking protocol."""

MAX_WATCHERS: Final = 100
"""Limit on the calls of Watch at a time; further calls end with RESOURCE_EXHAUSTED."""

POLL_INTERVAL: Final = 0.25
"""Seconds between two polls of the state in a call of Watch."""

_STATUS: Final = pb.HealthCheckResponse


class Health:
    """Serves the health checks of a server."""

    def __init__(self, is_ready: Callable[[], bool], services: tuple[str, ...]) -> None:
        """``services`` are the names that clients may check; the empty name stands for the server."""
        self._is_ready = is_ready
        self._known = ("", *services, HEALTH_SERVICE)
        self._watchers = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all calls of Watch with NOT_SERVING, because the server ends."""
        self._closing.set()

    async def check(self, data: bytes, call: ServicerContext) -> pb.HealthCheckResponse:
        """Return a service's state; end the call with NOT_FOUND if the service is unknown."""
        message = await _decoded(data, call)
        if message.service not in self._known:
            await call.abort(grpc.StatusCode.NOT_FOUND, self._unknown(message.service))
        return _STATUS(status=self._state(message.service))

    async def watch(self, data: bytes, call: ServicerContext) -> AsyncIterator[pb.HealthCheckResponse]:
        """Yield a service's state at once and after each change; SERVICE_UNKNOWN if the service is unknown."""
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
