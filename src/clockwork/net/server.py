"""Listens on ports. Each port accepts connections from clients, or from workers."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.errors import ServerError
from clockwork.messages.link import Hello
from clockwork.net.accepting import accept_connections, bind_sockets
from clockwork.net.address import Address
from clockwork.net.config import DEFAULT_LINK, LinkConfig
from clockwork.net.connection import Callbacks, Connection
from clockwork.units import as_seconds
from clockwork.wire.codec import Decode

MAX_CONNECTIONS: Final = 10_000
"""Largest number of connections of one port. Further connections get an error and are closed."""

BACKLOG: Final = 4096
"""Number of new connections that may wait in the kernel.

Many connections wait when all workers connect at the same time.
"""


class Server:
    """A listening port. `listen` creates servers."""

    address: Address
    """The address on which the server listens. The port is the actual port, even if the operating system chose it."""

    def __init__(self, roles: Sequence[str], max_connections: int, admits: Callable[[Connection, Hello], str]) -> None:
        """Create a server that does not listen yet. `start` makes the server listen."""
        self._roles = roles
        self._admits = admits
        self._max_connections = max_connections
        self._connections: dict[Connection, None] = {}
        self._closing = ""

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        return self.address.port

    def __len__(self) -> int:
        """Return the number of connections, including connections whose greeting has not ended."""
        return len(self._connections)

    async def start(
        self,
        address: Address,
        make: Callable[[], Connection],
        tls: ssl.SSLContext | None,
        handshake_timeout: float | None,
    ) -> None:
        """Start to listen on an address. `listen` calls this method once."""
        self._servers: list[asyncio.Server] = []
        sockets = await bind_sockets(address)
        self.address = Address(*sockets[0].getsockname()[:2])
        for sock in sockets:
            self._servers += await accept_connections(
                sock, make, ssl=tls, ssl_handshake_timeout=handshake_timeout, backlog=BACKLOG
            )

    async def close(self, reason: str) -> None:
        """Stop listening, close all connections with a Goodbye, and wait until they are closed."""
        self._closing = reason
        for server in self._servers:
            server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.close(reason)
        if connections:
            await asyncio.wait([connection.closed for connection in connections])

    def admit(self, connection: Connection) -> str:
        """Return the reason why a new connection is refused, or an empty text if it is accepted."""
        full = len(self._connections) >= self._max_connections
        self._connections[connection] = None
        connection.closed.add_done_callback(lambda _: self._connections.pop(connection))
        if full:
            return f"connection limit reached ({self._max_connections}); retry later"
        return self._closing

    def welcome(self, connection: Connection, hello: Hello) -> str:
        """Return the reason why a peer is refused after its Hello, or an empty text if it is accepted."""
        if hello.role in self._roles:
            return self._admits(connection, hello)
        return f"this port is for the role {self._roles[0]!r}, not {hello.role!r}; use the controller's other port"


async def listen(
    address: Address,
    *,
    role: str | Sequence[str],
    decode: Decode[Any],
    on_connected: Callable[[Connection], None],
    on_message: Callable[[Connection, Any, Any], None],
    on_closed: Callable[[Connection, str], None],
    on_writable: Callable[[Connection, bool], None] = lambda connection, writable: None,
    on_silent: Callable[[Connection, bool], None] = lambda connection, silent: None,
    refuses: Callable[[Connection, Any], bool] = lambda connection, message: False,
    admits: Callable[[Connection, Hello], str] = lambda connection, hello: "",
    config: LinkConfig = DEFAULT_LINK,
    clock: Clock | None = None,
    max_connections: int = MAX_CONNECTIONS,
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Listen on an address for peers of one role or several roles.

    ``admits`` returns the reason why a peer is refused. If ``admits`` returns an empty text, ``on_connected`` is
    called at once. ``on_closed`` is called exactly once for each connection that was passed to ``on_connected``.

    Raises:
        ServerError: the address is in use or not permitted.
    """
    server = Server([role] if isinstance(role, str) else role, max_connections, admits)
    callbacks = Callbacks(
        on_message, on_closed, server.admit, server.welcome, on_connected, on_writable, on_silent, refuses
    )
    make = partial(Connection, decode, callbacks, config=config, clock=clock)
    try:
        await server.start(address, make, tls, as_seconds(config.hello_timeout) if tls else None)
    except (OSError, UnicodeError) as error:  # an invalid host name raises UnicodeError
        raise ServerError(f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}") from error
    return server
