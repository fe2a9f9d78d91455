"""Listening: connections from outside, of one role per port."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

from clockwork import __version__
from clockwork.clock import Clock
from clockwork.errors import ServerError
from clockwork.messages.link import Hello, Welcome
from clockwork.net.address import Address
from clockwork.net.connection import DEFAULT_LINK, Connection, LinkConfig
from clockwork.wire.codec import Decode

MAX_CONNECTIONS: Final = 10_000
"""Connections of one port; more are told so and closed."""


class Server:
    """A port that is listened on; made by `listen`."""

    def __init__(
        self,
        *,
        role: str,
        decode: Decode[Any],
        on_connected: Callable[[Connection], None],
        on_message: Callable[[Connection, Any, Any], None],
        on_closed: Callable[[Connection, str], None],
        config: LinkConfig,
        clock: Clock | None,
        max_connections: int,
    ) -> None:
        self._role = role
        self._decode = decode
        self._on_connected = on_connected
        self._on_message = on_message
        self._on_closed = on_closed
        self._config = config
        self._clock = clock
        self._max_connections = max_connections
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> Address:
        """Where it listens; the port is the real one."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(host, port)

    def __len__(self) -> int:
        """Connections that are open, greeted or not."""
        return len(self._connections)

    async def close(self, reason: str) -> None:
        """Stop listening, say goodbye to all, and wait until they are closed."""
        assert self._server is not None
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.close(reason)
        if connections:
            await asyncio.wait([connection.closed for connection in connections])

    def accept(self) -> Connection:
        """The protocol of a new connection."""
        connection = Connection(
            decode=self._decode,
            on_message=self._on_message,
            on_closed=self._on_closed,
            on_hello=self._greet,
            on_ready=self._on_connected,
            config=self._config,
            clock=self._clock,
        )
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        return connection

    def _greet(self, connection: Connection, hello: Hello) -> str:
        if hello.role != self._role:
            return f"this port is for a {self._role}, and a {hello.role[:20]!r} came: use the other port"
        if len(self._connections) > self._max_connections:
            return f"{self._max_connections} connections are open already"
        connection.send(Welcome(f"clockwork {__version__}", self._config.max_frame_bytes))
        return ""


async def listen(
    address: Address,
    *,
    role: str,
    decode: Decode[Any],
    on_connected: Callable[[Connection], None],
    on_message: Callable[[Connection, Any, Any], None],
    on_closed: Callable[[Connection, str], None],
    config: LinkConfig = DEFAULT_LINK,
    clock: Clock | None = None,
    max_connections: int = MAX_CONNECTIONS,
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Listen on an address for peers of one role. ``on_closed`` is called once for each ``on_connected``.

    Raises:
        ServerError: the address is taken, or may not be used.
    """
    server = Server(
        role=role,
        decode=decode,
        on_connected=on_connected,
        on_message=on_message,
        on_closed=on_closed,
        config=config,
        clock=clock,
        max_connections=max_connections,
    )
    loop = asyncio.get_running_loop()
    try:
        server._server = await loop.create_server(server.accept, address.host, address.port, ssl=tls)  # noqa: SLF001
    except OSError as error:
        raise ServerError(f"cannot listen on {address}: {error.strerror or error}") from error
    return server
