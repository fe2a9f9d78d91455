"""The gRPC server. This module opens the port, sets the limits, registers the methods and ends failed calls."""

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
"""Largest message in bytes that the server receives. A longer message ends its call with RESOURCE_EXHAUSTED.

gRPC checks this limit, because grpc.aio copies a message on the event loop before Clockwork can check its size. The
limit is the sum of the limits on raw tensors and on the rest of a request, plus 1 MiB. So a request that is only
slightly too large reaches Clockwork, which returns a clearer error.
"""

MAX_RESPONSE_BYTES: Final[Bytes] = 256 * MIB
"""Largest message in bytes that the server sends. A longer message ends its call with RESOURCE_EXHAUSTED."""

MAX_CALLS: Final = 4096
"""Largest number of ModelInfer calls that are served at a time. Further calls end with RESOURCE_EXHAUSTED.

The same limit applies to the calls of all other methods together.
"""

MAX_UNREAD_CALLS: Final = 1024
"""Largest number of calls that wait in gRPC's core until the server takes them.

On one processor core, this number of small requests takes a quarter of a second. gRPC's core ends further calls with
CANCELLED. gRPC's core does not allow a different status code.
"""

MAX_STREAMS: Final = 256
"""Largest number of calls at a time on one connection. The client must queue further calls.

A call takes up to 40 KB of memory for its metadata. On 8 connections, calls that never end can therefore take 80 MB.
"""

MAX_METADATA_BYTES: Final[Bytes] = 8 * KIB
"""Largest size in bytes of a call's metadata. If the metadata is larger, the call ends with RESOURCE_EXHAUSTED.

Each entry counts as its length plus 32 bytes, because HTTP/2 can encode a repeated entry as one byte.
"""

IDLE_MS: Final = 600_000
"""Time in milliseconds after which the server closes a connection without calls. Clients reconnect when necessary."""

MIN_PING_MS = 5_000
"""Shortest time in milliseconds between two pings of a client.

If a client repeatedly sends pings at shorter intervals, the server closes the connection (GOAWAY with
ENHANCE_YOUR_CALM). gRPC's guide to keepalive allows clients one ping every 10 s, and some clients send pings a little
early.
"""

HANDSHAKE_MS: Final = 10_000
"""Time limit in milliseconds for the TLS handshake and the beginning of HTTP/2, and for the reply to a ping."""

INFER: Final = "ModelInfer"
"""Name of the method for inference. `Acceptors` take the calls of this method."""

GRACE: Final = 1.0
"""Time in seconds in which calls can finish when the server ends."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.http.overload_protection", 0),  # without this, ended calls count towards MAX_STREAMS for a while
    ("grpc.server.max_pending_requests", MAX_UNREAD_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_UNREAD_CALLS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_connection_idle_ms", IDLE_MS),
    ("grpc.keepalive_timeout_ms", HANDSHAKE_MS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.so_reuseport", 0),  # two servers must not share a port: each would get half of the calls
)

_Method: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

log = logging.getLogger("clockwork.grpc")


class GrpcServer:
    """A gRPC server that listens on a port. `serve_grpc` creates it."""

    def __init__(self, server: grpc.aio.Server, address: Address, acceptors: Acceptors | None = None) -> None:
        """Wrap a server that has started. ``address`` contains the port on which the server listens."""
        self.address = address
        self._server = server
        self._acceptors = acceptors

    async def close(self) -> None:
        """Stop taking calls, and cancel all calls that do not end within `GRACE`."""
        await self._server.stop(GRACE)
        if self._acceptors is not None:
            await self._acceptors.wait_closed()


@asynccontextmanager
async def serve_grpc(host: ControllerHost, address: Address, config: GrpcConfig = DEFAULT) -> AsyncIterator[GrpcServer]:
    """Serve gRPC on the controller's event loop until the context ends.

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
        front.close()  # calls that still wait get an error instead of a cancellation
        peers.close()
        await serving.close()


def _options(config: GrpcConfig) -> tuple[tuple[str, int], ...]:
    return (
        *_OPTIONS,
        ("grpc.max_allowed_incoming_connections", config.max_connections),
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
    """Check that the server can listen on the address.

    If gRPC itself cannot listen, it writes the reason only to stderr.
    """
    try:
        with ExitStack() as stack:
            for trial in await bind_sockets(address):
                stack.enter_context(trial)
                trial.listen()
    except (OSError, UnicodeError) as error:  # a host name that cannot be encoded raises UnicodeError
        raise _cannot_listen(address, error) from error


def _cannot_listen(address: Address, error: Exception) -> ServerError:
    reason = getattr(error, "strerror", None) or error
    return ServerError(f"cannot listen for gRPC on {address}: {reason}; choose another with --grpc")


def _inference(service: Service, infer: grpc.RpcMethodHandler) -> grpc.GenericRpcHandler:
    handlers = {
        INFER: infer,  # grpcio before 1.85 ignores the separate registration of this method
        "ServerLive": _unary(service.server_live, pb.ServerLiveRequest),
        "ServerReady": _unary(service.server_ready, pb.ServerReadyRequest),
        "ServerMetadata": _unary(service.server_metadata, pb.ServerMetadataRequest),
        "ModelReady": _unary(service.model_ready, pb.ModelReadyRequest),
        "ModelMetadata": _unary(service.model_metadata, pb.ModelMetadataRequest),
        "ModelConfig": _unary(service.model_config, pb.ModelConfigRequest),
        "ModelStatistics": _unary(service.model_statistics, pb.ModelStatisticsRequest),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(service.model_stream_infer),
        "RepositoryIndex": _unary(service.repository_index, pb.RepositoryIndexRequest),
        "RepositoryModelLoad": _unary(service.repository_model_load, pb.RepositoryModelLoadRequest, limited=False),
        "RepositoryModelUnload": _unary(service.repository_model_unload, pb.RepositoryModelUnloadRequest),
        "LogSettings": _unary(service.log_settings, pb.LogSettingsRequest),
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


def _unary(method: _Method, message: Any, *, limited: bool = True) -> grpc.RpcMethodHandler:
    async def decoded(data: bytes, call: Any) -> Any:
        return await method(decode(message, data, limited=limited), call)

    return grpc.unary_unary_rpc_method_handler(_failing(decoded), response_serializer=_serialized)


def _failing(method: _Method) -> _Method:
    """Return a method that ends the call with a `Failure` if the given method raises an exception."""

    async def serve(message: Any, call: Any) -> Any:
        try:
            return await method(message, call)
        except Exception as error:  # noqa: BLE001 - gRPC would send the exception's text to the client
            failure = failure_of_error(error, log)
        del message  # frees memory now; gRPC keeps this frame's variables until garbage collection
        return await abort(call, failure)

    return serve


def _serialized(message: Any) -> bytes:
    data: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return data
