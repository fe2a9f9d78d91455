"""Settings of the gRPC front end."""

from typing import Final

from msgspec import Struct

from clockwork.units import SECOND, Nanos

KEEP_ALIVE: Final[Nanos] = 60 * SECOND
"""Default time without traffic after which the server pings a connection.

If the client does not reply to the ping, the server closes the connection.
"""

MAX_CONNECTIONS: Final = 4096
"""Default for the largest number of open connections. Further connections are closed at once."""


class GrpcConfig(Struct, frozen=True):
    """Settings of the gRPC front end.

    - ``keep_alive``: time without traffic after which the server pings a connection
    - ``ignore_timeout``: whether the server ignores the request parameter ``timeout``
    - ``max_connections``: limit on open connections
    """

    keep_alive: Nanos = KEEP_ALIVE
    ignore_timeout: bool = False
    max_connections: int = MAX_CONNECTIONS


DEFAULT: Final = GrpcConfig()
"""The default settings."""
