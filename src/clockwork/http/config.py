"""Limits of the HTTP front end, and where it listens unless told otherwise."""

from typing import Final

from msgspec import Struct

from clockwork.net.address import Address
from clockwork.oip.binary import DEFAULT_MAX_JSON
from clockwork.units import GIB, KIB, MIB, Bytes

HTTP_PORT: Final = 8000
"""Triton's."""

DEFAULT_HTTP: Final = Address("127.0.0.1", HTTP_PORT)
"""Loopback, unless the operator says otherwise."""


class HttpConfig(Struct, frozen=True):
    """Limits; times are in seconds.

    ``max_body``: bytes of a request's body as sent. ``max_unpacked``: of one that was sent compressed; all of these
    together have twice as many. ``max_json``: JSON of a request, or of a response. ``max_held``: of all bodies that
    are being received, beside a ``piece`` of each, which is what is received at once. ``max_head``: of a request's
    head. ``head_timeout``: from a head's first byte, or a connection's beginning, to the head's end.
    ``handshake_timeout``: for TLS. ``body_timeout``: for a piece of a body; ``body_time``: for all of it.
    ``write_timeout``: in which a client that is written to has to read a MiB. ``keep_alive``: without a request.
    ``grace``: that requests in progress are given at the end.
    ``metrics``: serve them; ``model_histograms``: with the latencies of each model.
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
"""What is right for most."""
