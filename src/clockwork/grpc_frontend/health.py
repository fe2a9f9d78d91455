"""Implements gRPC's health checking protocol.

Kubernetes' gRPC probes, load balancers and grpc_health_probe use this protocol.

Each service has the state SERVING while the server is ready. No event reports a change of the readiness, so the method
Watch checks the readiness every `POLL_INTERVAL` seconds. The number of Watch calls is limited.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from clockwork.grpc_frontend import health_pb2 as pb
from clockwork.grpc_frontend.calls import Call
from clockwork.grpc_frontend.incoming import Message, only
from clockwork.grpc_frontend.service import decode
from clockwork.messages.faults import quoted
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure, RequestFailedError

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

    async def check(self, message: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        """Return a service's state. If the service is unknown, the call ends with NOT_FOUND."""
        if message.service not in self._known:
            failure = Failure(404, "NOT_FOUND", self._unknown(message.service), Status.INVALID_REQUEST)
            raise RequestFailedError(failure)
        return _STATUS(status=self._state(message.service))

    async def watch(self, messages: AsyncIterator[Message], call: Call) -> AsyncIterator[bytes]:
        """Send a service's state at once and after each change. The state of an unknown service is SERVICE_UNKNOWN."""
        message = decode(pb.HealthCheckRequest, (await only(messages)).data)
        if self._watchers >= MAX_WATCHERS:
            text = f"the limit of {MAX_WATCHERS} calls of Watch is reached; call Check periodically instead"
            raise RequestFailedError(Failure(503, "RESOURCE_EXHAUSTED", text, Status.SKIPPED_BY_CONTROLLER))
        self._watchers += 1
        try:
            last = None
            while True:
                state = self._state(message.service)
                if state != last:
                    last = state
                    yield _STATUS(status=state).SerializeToString()
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
