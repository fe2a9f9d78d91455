"""The gRPC server: one port, its limits, and how methods are reached and failures told."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from clockwork.clock import MonotonicClock
from clockwork.controller.stage import Stage
from clockwork.errors import ServerError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.accepting import Acceptors, can_take_many
from clockwork.grpc_frontend.access import Guard
from clockwork.grpc_frontend.core import read_sockets_in_one_thread
from clockwork.grpc_frontend.health import HEALTH_SERVICE, Health
from clockwork.grpc_frontend.infer import MAX_PAYLOAD_BYTES
from clockwork.grpc_frontend.metadata_log import bad_metadata_counted
from clockwork.grpc_frontend.peers import Peers
from clockwork.grpc_frontend.reflection import reflecting
from clockwork.grpc_frontend.scanning import MAX_DESCRIPTION
from clockwork.grpc_frontend.service import SERVICE, CallFailedError, Service, decode, unforeseen
from clockwork.host.controller import ControllerHost
from clockwork.host.telling import about
from clockwork.messages.status import Status
from clockwork.net.address import Address
from clockwork.net.tls import ServerTls
from clockwork.oip.contract import failure
from clockwork.oip.unsupported import METHODS
from clockwork.units import KIB, MIB, Bytes

MAX_REQUEST_BYTES: Final[Bytes] = MAX_PAYLOAD_BYTES + MAX_DESCRIPTION + MIB
"""Of one message that is received: raw tensors, all else of a request, and room for a clear error to those that exceed
these limits by little. grpc.aio copies a message on the event loop, before it can be measured. Longer ones end their
call with RESOURCE_EXHAUSTED before that."""

MAX_RESPONSE_BYTES: Final[Bytes] = 256 * MIB
"""Of one message that is sent; longer ones end their call with RESOURCE_EXHAUSTED."""

MAX_CALLS: Final = 4096
"""Calls at a time of ModelInfer, and as many of all other methods; more end with RESOURCE_EXHAUSTED."""

MAX_UNREAD_CALLS: Final = 1024
"""Calls that wait in gRPC's core for this process to take them: a quarter of a second of small requests on one core.
The core ends more of them at once with CANCELLED, without this process: it offers no other code."""

MAX_CONNECTIONS: Final = 4096
"""Of the port; more are closed as soon as they are made."""

MAX_STREAMS: Final = 256
"""Calls at a time of one connection; clients let more of them wait. A call takes up to 40 KB with as much metadata as
is accepted, so 8 connections whose calls never end hold 80 MB."""

MAX_METADATA_BYTES: Final[Bytes] = 8 * KIB
"""Metadata of a call, with 32 bytes for each entry; more ends it with RESOURCE_EXHAUSTED. A byte of a request may stand
for an entry."""

IDLE_MS: Final = 600_000
"""A connection without calls is closed after this; a client makes another when it needs one."""

KEEPALIVE_MS: Final = 60_000
"""A silent connection is asked whether it is still there, and is closed if it is not."""

HANDSHAKE_MS: Final = 10_000
"""For TLS and the beginning of HTTP/2."""

INFER: Final = "ModelInfer"
"""The method whose calls are taken many at a time."""

GRACE: Final = 1.0
"""Seconds for calls to end when the server does."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.http.overload_protection", 0),  # it resets calls below the limit, while calls that have ended are forgotten
    ("grpc.server.max_pending_requests", MAX_UNREAD_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_UNREAD_CALLS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_connection_idle_ms", IDLE_MS),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", HANDSHAKE_MS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.so_reuseport", 0),  # else two servers could share a port, and each would get half of the calls
)

_Method: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

log = logging.getLogger("clockwork.grpc")


class GrpcServer:
    """Listens; made by `serve_grpc`."""

    def __init__(self, server: grpc.aio.Server, address: Address, acceptors: Acceptors | None = None) -> None:
        """``address`` has the real port."""
        self.address = address
        self._server = server
        self._acceptors = acceptors

    async def close(self) -> None:
        """Take no more calls; those that do not end in time are cancelled."""
        await self._server.stop(GRACE)
        if self._acceptors is not None:
            await self._acceptors.wait_closed()


@asynccontextmanager
async def serve_grpc(host: ControllerHost, address: Address) -> AsyncIterator[GrpcServer]:
    """Serve what the controller serves over gRPC, on its event loop; closed at the end.

    Raises:
        ServerError: the address is taken, or may not be used.
    """
    await _check_free(address)
    read_sockets_in_one_thread()
    client = host.local_client()
    guards = [] if host.access.open else [Guard(host.access)]
    server = grpc.aio.server(options=_OPTIONS, interceptors=guards, maximum_concurrent_rpcs=MAX_CALLS)

    def is_serving() -> bool:
        return host.progress()[0] == Stage.SERVING.value

    peers = Peers(partial(host.local_client, shared=False))
    clock = MonotonicClock()
    service, health = Service(host, client, peers, is_serving, clock), Health(host.is_ready, (SERVICE,))
    infer = grpc.unary_unary_rpc_method_handler(_told(service.model_infer))
    server.add_registered_method_handlers(SERVICE, {INFER: infer})
    server.add_generic_rpc_handlers(
        (_inference(service, infer), _health(health), *reflecting((SERVICE, HEALTH_SERVICE)))
    )
    try:
        port = _add_port(server, address, host.tls)
    except RuntimeError as error:
        raise ServerError(f"cannot listen on {address}: {error}") from error
    await server.start()
    acceptors = None
    if can_take_many():
        acceptors = Acceptors(server, f"/{SERVICE}/{INFER}", infer, guards, host.reception, MAX_CALLS)
    serving = GrpcServer(server, Address(address.host, port), acceptors)
    extra = about("listening", protocol="grpc", address=str(serving.address))
    log.info("listening for gRPC on %s", serving.address, extra=extra)
    try:
        with bad_metadata_counted(clock):
            yield serving
    finally:
        health.close()
        client.close()  # calls that wait fail with a reason, rather than being cut off
        peers.close()
        await serving.close()


def _add_port(server: grpc.aio.Server, address: Address, tls: ServerTls | None) -> int:
    port: int
    if tls is None:
        port = server.add_insecure_port(str(address))
    else:
        pair = [(tls.key, tls.certificate)]
        credentials = grpc.ssl_server_credentials(pair, tls.client_ca or None, require_client_auth=bool(tls.client_ca))
        port = server.add_secure_port(str(address), credentials)
    return port


async def _check_free(address: Address) -> None:
    """Try the address: gRPC would write the reason to stderr, and not say it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
            trial.listen()
    except (OSError, UnicodeError) as error:  # UnicodeError: what cannot be a host's name
        raise ServerError(f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}") from error


def _inference(service: Service, infer: grpc.RpcMethodHandler) -> grpc.GenericRpcHandler:
    handlers = {
        INFER: infer,  # as well, because releases of grpcio before 1.85 ignore handlers that are registered
        "ServerLive": _unary(service.server_live, pb.ServerLiveRequest),
        "ServerReady": _unary(service.server_ready, pb.ServerReadyRequest),
        "ServerMetadata": _unary(service.server_metadata, pb.ServerMetadataRequest),
        "ModelReady": _unary(service.model_ready, pb.ModelReadyRequest),
        "ModelMetadata": _unary(service.model_metadata, pb.ModelMetadataRequest),
        "ModelConfig": _unary(service.model_config, pb.ModelConfigRequest),
        "ModelStatistics": _unary(service.model_statistics, pb.ModelStatisticsRequest),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(service.model_stream_infer),
        "RepositoryIndex": _unary(service.repository_index, pb.RepositoryIndexRequest),
        "RepositoryModelLoad": _unary(service.repository_model_load, pb.RepositoryModelLoadRequest),
        "RepositoryModelUnload": _unary(service.repository_model_unload, pb.RepositoryModelUnloadRequest),
    }
    for name, why in METHODS.items():
        handlers[name] = grpc.unary_unary_rpc_method_handler(_told(partial(_unsupported, why)))
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


async def _unsupported(why: str, message: bytes, call: Any) -> None:
    raise CallFailedError(failure(Status.INVALID_REQUEST, why), grpc.StatusCode.UNIMPLEMENTED)


def _health(health: Health) -> grpc.GenericRpcHandler:
    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(health.check, response_serializer=_serialized),
        "Watch": grpc.unary_stream_rpc_method_handler(health.watch, response_serializer=_serialized),
    }
    return grpc.method_handlers_generic_handler(HEALTH_SERVICE, handlers)


def _unary(method: _Method, message: Any) -> grpc.RpcMethodHandler:
    async def decoded(data: bytes, call: Any) -> Any:
        return await method(decode(message, data), call)

    return grpc.unary_unary_rpc_method_handler(_told(decoded), response_serializer=_serialized)


def _told(method: _Method) -> _Method:
    """The method, whose failures end the call as the contract says."""

    async def answer(message: Any, call: Any) -> Any:
        try:
            return await method(message, call)
        except CallFailedError as failed:
            told = failed
        except Exception as error:  # noqa: BLE001 - logged; gRPC would tell the client all about it
            told = unforeseen(error)
        del message  # it may be large, and gRPC keeps the error of `abort`, with this frame, until the collector comes
        told.forget_frames()
        return await call.abort(told.code, str(told), told.metadata())

    return answer


def _serialized(message: Any) -> bytes:
    data: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return data
