"""The gRPC server: its port, its limits, its methods, and how a failure ends a call."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio

from clockwork.clock import MonotonicClock
from clockwork.errors import ServerError
from clockwork.frontend import failure_of_error
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.accepting import Acceptors, can_take_many
from clockwork.grpc_frontend.access import Guard
from clockwork.grpc_frontend.config import DEFAULT, GrpcConfig
from clockwork.grpc_frontend.core import read_sockets_in_one_thread
from clockwork.grpc_frontend.failures import abort
from clockwork.grpc_frontend.health import HEALTH_SERVICE, Health
from clockwork.grpc_frontend.infer import MAX_PAYLOAD_BYTES
from clockwork.grpc_frontend.metadata_log import bad_metadata_counted
from clockwork.grpc_frontend.peers import Peers
from clockwork.grpc_frontend.reflection import reflecting
from clockwork.grpc_frontend.scanning import MAX_DESCRIPTION
from clockwork.grpc_frontend.service import SERVICE, Service, decode, grpc_front_end
from clockwork.host.controller import ControllerHost
from clockwork.host.log_events import event_fields
from clockwork.net.accepting import bind_sockets
from clockwork.net.address import Address
from clockwork.net.tls import ServerTls
from clockwork.oip.failures import Failure, RequestFailedError
from clockwork.oip.unsupported import METHODS
from clockwork.units import KIB, MIB, MILLISECOND, Bytes

MAX_REQUEST_BYTES: Final[Bytes] = MAX_PAYLOAD_BYTES + MAX_DESCRIPTION + MIB
"""Limit on a received message, in bytes: raw tensors, the rest of a request, and 1 MiB so that a slightly too long
message gets a clear error. A longer message ends its call with RESOURCE_EXHAUSTED, because grpc.aio copies a message on
the event loop before this process can check its size."""

MAX_RESPONSE_BYTES: Final[Bytes] = 256 * MIB
"""Limit on a sent message, in bytes; a longer one ends its call with RESOURCE_EXHAUSTED."""

MAX_CALLS: Final = 4096
"""Limit on the calls of ModelInfer served at a time, and on those of all other methods together. Further calls end with
RESOURCE_EXHAUSTED."""

MAX_UNREAD_CALLS: Final = 1024
"""Limit on the calls that wait in gRPC's core until this process takes them. On one processor core, this many small
requests take a quarter of a second. gRPC's core ends further calls with CANCELLED; no other code is possible."""

MAX_CONNECTIONS: Final = 4096
"""Limit on the connections to the port; further ones are closed at once."""

MAX_STREAMS: Final = 256
"""Limit on the calls at a time on one connection; a client queues further ones. A call with the most metadata takes up
to 40 KB, so 8 connections whose calls never end hold 80 MB."""

MAX_METADATA_BYTES: Final[Bytes] = 8 * KIB
"""Limit on the metadata of a call, in bytes; more ends the call with RESOURCE_EXHAUSTED. Each entry counts as 32 bytes
more than its length, because one byte of a request may stand for an entry."""

IDLE_MS: Final = 600_000
"""Milliseconds after which a connection without calls is closed; a client reconnects when it needs to."""

MIN_PING_MS = 5_000
"""Milliseconds between pings of a client, with or without calls. A client that pings more often several times loses its
connection (GOAWAY with ENHANCE_YOUR_CALM). Clients ping every 10 s at most often (gRPC's guide to keepalive), some of
them a little early."""

HANDSHAKE_MS: Final = 10_000
"""Time limit in milliseconds for TLS and the beginning of HTTP/2, and for the reply to a ping."""

INFER: Final = "ModelInfer"
"""The method whose calls `Acceptors` take."""

GRACE: Final = 1.0
"""Number of seconds that calls have to finish when the server ends."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.http.overload_protection", 0),  # else ended calls count for a while, and calls below the limit are reset
    ("grpc.server.max_pending_requests", MAX_UNREAD_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_UNREAD_CALLS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_connection_idle_ms", IDLE_MS),
    ("grpc.keepalive_timeout_ms", HANDSHAKE_MS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.so_reuseport", 0),  # otherwise two servers could share a port, and each would get half of the calls
)

_Method: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

log = logging.getLogger("clockwork.grpc")


class GrpcServer:
    """A listening server, which `serve_grpc` creates."""

    def __init__(self, server: grpc.aio.Server, address: Address, acceptors: Acceptors | None = None) -> None:
        """Take a server that has started; ``address`` has the real port."""
        self.address = address
        self._server = server
        self._acceptors = acceptors

    async def close(self) -> None:
        """Take no more calls, and cancel those that do not end within `GRACE`."""
        await self._server.stop(GRACE)
        if self._acceptors is not None:
            await self._acceptors.wait_closed()


@asynccontextmanager
async def serve_grpc(host: ControllerHost, address: Address, config: GrpcConfig = DEFAULT) -> AsyncIterator[GrpcServer]:
    """Serve gRPC on the controller's event loop while the context lasts.

    Raises:
        ServerError: the address is in use or not allowed.
    """
    await _check_free(address)
    read_sockets_in_one_thread()
    front = grpc_front_end(host, ignore_timeout=config.ignore_timeout)
    guards = [] if host.access.open else [Guard(host.access, front.token_brake)]
    server = grpc.aio.server(options=_options(config), interceptors=guards, maximum_concurrent_rpcs=MAX_CALLS)
    peers = Peers(partial(host.local_client, shared=False))
    clock = MonotonicClock()
    service = Service(front, peers, None if host.arena is None else host.arena.allocate, clock)
    health = Health(host.is_ready, (SERVICE,))
    infer = grpc.unary_unary_rpc_method_handler(_failing(service.model_infer))
    server.add_registered_method_handlers(SERVICE, {INFER: infer})
    server.add_generic_rpc_handlers(
        (_inference(service, infer), _health(health), *reflecting((SERVICE, HEALTH_SERVICE)))
    )
    try:
        port = _add_port(server, address, host.tls)
    except RuntimeError as error:
        raise _cannot_listen(address, error) from error
    await server.start()
    acceptors = None
    if can_take_many():
        acceptors = Acceptors(server, f"/{SERVICE}/{INFER}", infer, guards, host.reception, MAX_CALLS)
    serving = GrpcServer(server, Address(address.host, port), acceptors)
    extra = event_fields("listening", protocol="grpc", address=str(serving.address))
    log.info("listening for gRPC on %s", serving.address, extra=extra)
    try:
        with bad_metadata_counted(clock):
            yield serving
    finally:
        health.close()
        front.close()  # waiting calls fail with a reason, rather than being cut off
        peers.close()
        await serving.close()


def _options(config: GrpcConfig) -> tuple[tuple[str, int], ...]:
    return (
        *_OPTIONS,
        ("grpc.keepalive_time_ms", max(1, config.keep_alive // MILLISECOND)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
    )


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
    """Try to listen on the address: gRPC itself writes the reason of a failure to stderr only."""
    try:
        with ExitStack() as stack:
            for trial in await bind_sockets(address):
                stack.enter_context(trial)
                trial.listen()
    except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
        raise _cannot_listen(address, error) from error


def _cannot_listen(address: Address, error: Exception) -> ServerError:
    reason = getattr(error, "strerror", None) or error
    return ServerError(f"cannot listen for gRPC on {address}: {reason}; choose another with --grpc")


def _inference(service: Service, infer: grpc.RpcMethodHandler) -> grpc.GenericRpcHandler:
    handlers = {
        INFER: infer,  # grpcio before 1.85 ignores registered handlers
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
    }
    for name, text in METHODS.items():
        handlers[name] = grpc.unary_unary_rpc_method_handler(_failing(partial(_unsupported, text)))
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


async def _unsupported(text: str, message: bytes, call: Any) -> NoReturn:
    raise RequestFailedError(Failure.unsupported(text))


def _health(health: Health) -> grpc.GenericRpcHandler:
    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(health.check, response_serializer=_serialized),
        "Watch": grpc.unary_stream_rpc_method_handler(health.watch, response_serializer=_serialized),
    }
    return grpc.method_handlers_generic_handler(HEALTH_SERVICE, handlers)


def _unary(method: _Method, message: Any) -> grpc.RpcMethodHandler:
    async def decoded(data: bytes, call: Any) -> Any:
        return await method(decode(message, data), call)

    return grpc.unary_unary_rpc_method_handler(_failing(decoded), response_serializer=_serialized)


def _failing(method: _Method) -> _Method:
    """Return the method with its exceptions turned into failures, which end the call."""

    async def serve(message: Any, call: Any) -> Any:
        try:
            return await method(message, call)
        except Exception as error:  # noqa: BLE001 - logged if unexpected; gRPC would send its text to the client
            failure = failure_of_error(error, log)
        del message  # may be large, and gRPC keeps the error of `abort`, with this frame, until garbage collection
        return await abort(call, failure)

    return serve


def _serialized(message: Any) -> bytes:
    data: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return data
