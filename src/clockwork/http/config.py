"""Limits of the HTTP front end, and its default address."""

from typing import Final

from msgspec import Struct

from clockwork.net.address import Address
from clockwork.oip.binary import DEFAULT_MAX_JSON
from clockwork.units import GIB, KIB, MIB, Bytes

HTTP_PORT: Final = 8000
"""Triton's port for HTTP."""

DEFAULT_HTTP: Final = Address("127.0.0.1", HTTP_PORT)
"""Where HTTP listens by default: on loopback only."""


class HttpConfig(Struct, frozen=True):
    """Limits of the HTTP front end; sizes are in bytes and times in seconds.

    ``max_body``: a request's body as sent.
    ``max_unpacked``: a compressed body after unpacking; all such bodies together may take twice as much.
    ``max_json``: the JSON of a request or of a response.
    ``max_held``: all bodies that are being received, not counting one ``piece`` of each.
    ``piece``: the part of a body that the application gets at a time.
    ``max_head``: a request's head.
    ``backlog``: connections that wait to be accepted.
    ``head_timeout``: from the head's first byte, or the connection's beginning, to the head's end.
    ``handshake_timeout``: the TLS handshake.
    ``body_timeout``: a MiB of a body; ``body_time``: a whole body.
    ``write_timeout``: the time in which a client must read a MiB of a reply.
    ``keep_alive``: a connection without a request.
    ``grace``: the time to finish requests when the server ends.
    ``metrics``: serve metrics; ``model_histograms``: with the latencies of each model.
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


DEFAULT: Final = HttpConfig()
"""The default limits."""
