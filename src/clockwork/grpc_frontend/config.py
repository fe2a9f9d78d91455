"""Settings of the gRPC front end."""

from typing import Final

from msgspec import Struct

from clockwork.units import SECOND, Nanos

KEEP_ALIVE: Final[Nanos] = 60 * SECOND
"""Default time without traffic after which the server pings a connection. It closes the connection if no reply arrives.
"""


class GrpcConfig(Struct, frozen=True):
    """Settings of the gRPC front end.

    - ``keep_alive``: time without traffic after which the server pings a connection
    - ``ignore_timeout``: whether the server ignores the request parameter ``timeout``
    """

    keep_alive: Nanos = KEEP_ALIVE
    ignore_timeout: bool = False


DEFAULT: Final = GrpcConfig()
"""The settings that apply unless the operator changes them."""
