"""Settings of the gRPC front end."""

from typing import Final

from msgspec import Struct

from clockwork.units import SECOND, Nanos

KEEP_ALIVE: Final[Nanos] = 60 * SECOND
"""Default time of silence after which the server pings a connection, which it closes if it gets no reply."""


class GrpcConfig(Struct, frozen=True):
    """Settings of the gRPC front end.

    ``keep_alive``: time of silence after which the server pings a connection. ``ignore_timeout``: ignore the request
    parameter ``timeout``.
    """

    keep_alive: Nanos = KEEP_ALIVE
    ignore_timeout: bool = False


DEFAULT: Final = GrpcConfig()
"""The default settings."""
