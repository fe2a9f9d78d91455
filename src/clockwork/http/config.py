"""Limits and default address of the HTTP front end."""

from typing import Final

from msgspec import Struct

from clockwork.net.address import Address
from clockwork.oip.binary import DEFAULT_MAX_JSON
from clockwork.units import GIB, KIB, MIB, Bytes

HTTP_PORT: Final = 8000
"""Default port for HTTP. Triton uses the same port."""

DEFAULT_HTTP: Final = Address("127.0.0.1", HTTP_PORT)
"""Default address of the HTTP front end. Only clients on the same machine can reach this address."""


class HttpConfig(Struct, frozen=True):
    """Limits of the HTTP front end. Sizes are in bytes, and times are in seconds.

    - ``max_body``: size of a request's body as the client sends it
    - ``max_unpacked``: size of a compressed body after it is unpacked; all such bodies together may take twice as much
    - ``max_json``: size of the JSON of a request or of a response
    - ``max_held``: total size of all bodies that are being received; the first ``piece`` bytes of each body do not
      count
    - ``piece``: number of bytes of a body that the application gets at a time
    - ``max_head``: size of a request's head
    - ``max_connections``: number of open connections
    - ``backlog``: number of connections that wait until the server accepts them
    - ``head_timeout``: time for a request's head, from its first byte or from the start of the connection
    - ``handshake_timeout``: time for the TLS handshake
    - ``body_timeout``: time in which a client must send each MiB of a body
    - ``body_time``: time in which a client must send a whole body
    - ``write_timeout``: time in which a client must read each MiB of a reply
    - ``keep_alive``: time after which the server closes a connection without requests
    - ``grace``: time to finish requests when the server ends
    - ``metrics``: whether the server has a metrics page
    - ``model_histograms``: whether the metrics include the latencies of each model
    - ``dashboard``: whether the server has the dashboard
    - ``max_viewers``: number of pages that may show the dashboard at the same time
    - ``viewer_timeout``: time in which a viewer must read each snapshot
    - ``ignore_timeout``: whether the server ignores the request parameter ``timeout``
    """

    max_body: Bytes = 256 * MIB
    max_unpacked: Bytes = 64 * MIB
    max_json: Bytes = DEFAULT_MAX_JSON
    max_held: Bytes = 2 * GIB
    piece: Bytes = 1 * MIB
    max_head: Bytes = 64 * KIB
    max_connections: int = 12_000
    backlog: int = 4096
    head_timeout: float = 30.0
    handshake_timeout: float = 10.0
    body_timeout: float = 60.0
    body_time: float = 600.0
    write_timeout: float = 60.0
    keep_alive: int = 75
    grace: int = 1
    metrics: bool = True
    model_histograms: bool = True
    dashboard: bool = True
    max_viewers: int = 20
    viewer_timeout: float = 10.0
    ignore_timeout: bool = False


DEFAULT: Final = HttpConfig()
"""The default limits."""
