"""The gRPC server. This module opens the port and registers the methods."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend import health_pb2
from clockwork.grpc_frontend.config import DEFAULT, GrpcConfig
from clockwork.grpc_frontend.connection import GrpcConnection, Port
from clockwork.grpc_frontend.handling import Serving
from clockwork.grpc_frontend.health import HEALTH_SERVICE, Health
from clockwork.grpc_frontend.limits import GRACE, HANDSHAKE
from clockwork.grpc_frontend.methods import Method
from clockwork.grpc_frontend.reflection import NAMES, Reflection
from clockwork.grpc_frontend.service import SERVICE, Service, decode, grpc_front_end
from clockwork.host.controller import ControllerHost
from clockwork.host.log_events import event_fields
from clockwork.net.accepting import accept_connections, listening_sockets
from clockwork.net.address import Address
from clockwork.net.tls import ServerTls
from clockwork.oip.failures import Failure, RequestFailedError
from clockwork.oip.unsupported import METHODS
from clockwork.units import SECOND

BACKLOG: Final = 4096
"""Number of connections that wait until the server accepts them."""

_Implementation: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

log = logging.getLogger("clockwork.grpc")


class GrpcServer:
    """A gRPC server that listens on a port. `serve_grpc` creates it."""

    def __init__(self, servers: list[asyncio.Server], port: Port, address: Address) -> None:
        """Wrap servers that accept connections. ``address`` contains the port on which they listen."""
        self.address = address
        self._servers = servers
        self._port = port

    async def close(self) -> None:
        """Stop taking calls, and cancel all calls that do not end within `GRACE`."""
        for server in self._servers:
            server.close()
        await self._port.close(GRACE)


@asynccontextmanager
async def serve_grpc(host: ControllerHost, address: Address, config: GrpcConfig = DEFAULT) -> AsyncIterator[GrpcServer]:
    """Serve gRPC on the controller's event loop until the context ends.

    Raises:
        ServerError: the address is in use or not allowed.
    """
    front = grpc_front_end(host, ignore_timeout=config.ignore_timeout)
    service = Service(front, None if host.arena is None else host.arena.allocate)
    health = Health(host.is_ready, (SERVICE,))
    methods = _inference(service) | _health(health) | _reflection()
    serving = Serving(methods, front, host.access, host.allocate)
    port = Port(
        serving, host.reception, partial(host.local_client, shared=False), config.keep_alive, config.max_connections
    )
    servers, real = await _listen(port, address, host.tls)
    server = GrpcServer(servers, port, real)
    log.info("listening for gRPC on %s", real, extra=event_fields("listening", protocol="grpc", address=str(real)))
    try:
        yield server
    finally:
        health.close()
        front.close()  # calls that still wait get an error instead of a cancellation
        await server.close()


async def _listen(port: Port, address: Address, tls: ServerTls | None) -> tuple[list[asyncio.Server], Address]:
    sockets = await listening_sockets(address, BACKLOG, "gRPC")
    real = Address(address.host, sockets[0].getsockname()[1])
    context, timeout = (None, None) if tls is None else (tls.http2_context, HANDSHAKE / SECOND)
    make = partial(GrpcConnection, port)
    servers = [
        server
        for listening in sockets
        for server in await accept_connections(
            listening, make, ssl=context, ssl_handshake_timeout=timeout, backlog=BACKLOG
        )
    ]
    return servers, real


def _inference(service: Service) -> dict[str, Method]:
    unary = {
        "ServerLive": _unary(service.server_live, pb.ServerLiveRequest),
        "ServerReady": _unary(service.server_ready, pb.ServerReadyRequest),
        "ServerMetadata": _unary(service.server_metadata, pb.ServerMetadataRequest),
        "ModelReady": _unary(service.model_ready, pb.ModelReadyRequest),
        "ModelMetadata": _unary(service.model_metadata, pb.ModelMetadataRequest),
        "ModelConfig": _unary(service.model_config, pb.ModelConfigRequest),
        "ModelStatistics": _unary(service.model_statistics, pb.ModelStatisticsRequest),
        "RepositoryIndex": _unary(service.repository_index, pb.RepositoryIndexRequest),
        "RepositoryModelLoad": _unary(service.repository_model_load, pb.RepositoryModelLoadRequest, limited=False),
        "RepositoryModelUnload": _unary(service.repository_model_unload, pb.RepositoryModelUnloadRequest),
        "LogSettings": _unary(service.log_settings, pb.LogSettingsRequest),
    }
    unary |= {name: Method(unary=partial(_unsupported, text)) for name, text in METHODS.items()}
    unary["ModelInfer"] = Method(unary=service.model_infer, infers=True)
    unary["ModelStreamInfer"] = Method(streaming=service.model_stream_infer)
    return {f"/{SERVICE}/{name}": method for name, method in unary.items()}


def _health(health: Health) -> dict[str, Method]:
    return {
        f"/{HEALTH_SERVICE}/Check": _unary(health.check, health_pb2.HealthCheckRequest),
        f"/{HEALTH_SERVICE}/Watch": Method(streaming=health.watch),
    }


def _reflection() -> dict[str, Method]:
    method = Method(streaming=Reflection((SERVICE, HEALTH_SERVICE)).info)
    return {f"/{name}/ServerReflectionInfo": method for name in NAMES}


async def _unsupported(text: str, message: bytes, call: Any) -> NoReturn:
    raise RequestFailedError(Failure.unsupported(text))


def _unary(implementation: _Implementation, message: Any, *, limited: bool = True) -> Method:
    """Return a method whose implementation gets and returns messages. It may also return encoded messages."""

    async def serve(data: bytes | memoryview, call: Any) -> bytes:
        reply = await implementation(decode(message, data, limited=limited), call)
        return reply if isinstance(reply, bytes) else bytes(reply.SerializeToString())

    return Method(unary=serve)
