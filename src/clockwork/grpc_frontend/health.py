"""gRPC's health checking protocol: what Kubernetes' gRPC probes, load balancers and grpc_health_probe ask.

Rules of the file: each service is SERVING when the server is ready. Nothing reports a change of that, so
Watch looks every `LOOK_EVERY`; the number of watching calls is limited.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

import grpc
from grpc.aio import ServicerContext

from clockwork.grpc_frontend import health_pb2 as pb
from clockwork.grpc_frontend.service import CallFailedError, decode

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
"""As gRPC's health checking protocol names it."""

MAX_WATCHERS: Final = 100
"""Calls of Watch at a time; more are told RESOURCE_EXHAUSTED."""

LOOK_EVERY: Final = 0.25
"""Seconds between two looks for those who watch."""

_STATUS: Final = pb.HealthCheckResponse


class Health:
    """One for all calls of a server."""

    def __init__(self, is_ready: Callable[[], bool], services: tuple[str, ...]) -> None:
        """``services``: what may be asked about; the empty name is the server."""
        self._is_ready = is_ready
        self._known = ("", *services, HEALTH_SERVICE)
        self._watchers = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """The server ends: those who watch are told so, and their calls end."""
        self._closing.set()

    async def check(self, data: bytes, call: ServicerContext) -> pb.HealthCheckResponse:
        """The state, once; NOT_FOUND for a service that there is not."""
        message = await _decoded(data, call)
        if message.service not in self._known:
            await call.abort(grpc.StatusCode.NOT_FOUND, self._unknown(message.service))
        return _STATUS(status=self._state(message.service))

    async def watch(self, data: bytes, call: ServicerContext) -> AsyncIterator[pb.HealthCheckResponse]:
        """The state at once, and whenever it changes; SERVICE_UNKNOWN of a service that there is not."""
        message = await _decoded(data, call)
        if self._watchers >= MAX_WATCHERS:
            text = f"{MAX_WATCHERS} calls watch already, which is as many as may: call Check now and then"
            await call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._watchers += 1
        try:
            told = None
            while True:
                state = self._state(message.service)
                if state != told:
                    told = state
                    yield _STATUS(status=state)
                if self._closing.is_set():
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._closing.wait()
        finally:
            self._watchers -= 1

    def _state(self, service: str) -> pb.HealthCheckResponse.ServingStatus:
        if service not in self._known:
            return _STATUS.SERVICE_UNKNOWN
        return _STATUS.SERVING if self._is_ready() and not self._closing.is_set() else _STATUS.NOT_SERVING

    def _unknown(self, service: str) -> str:
        return f"there is no service {service!r}; there are {', '.join(filter(None, self._known))}"


async def _decoded(data: bytes, call: ServicerContext) -> Any:
    try:
        return decode(pb.HealthCheckRequest, data)
    except CallFailedError as failed:
        return await call.abort(failed.code, str(failed))
