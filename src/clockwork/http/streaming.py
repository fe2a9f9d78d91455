"""Sends replies whose length is not known when they begin."""

import asyncio
import socket
from contextlib import suppress

from clockwork.http.exchange import Exchange
from clockwork.http.replies import Reply


class Stream:
    """A reply that is sent in pieces, as long as the client reads them.

    At most one piece waits in the memory of the server. The client is disconnected if it reads too slowly. The kernel
    may accept many pieces that the client does not read, so the kernel has the same time limit.
    """

    def __init__(self, exchange: Exchange, reply: Reply, patience: float) -> None:
        """Write the head of the reply. The reply must have no parts.

        ``patience`` is the time in seconds that the client may take to read one piece.
        """
        self._exchange, self._patience = exchange, patience
        self._transport = exchange.connection.transport
        self._chunked = exchange.version != "1.0"
        self._bodyless = exchange.method == "HEAD"
        if not self._chunked:  # the end of the connection ends the reply
            exchange.keep_alive = False
        self._limit_unread(patience)
        exchange.begin_reply(reply, b"transfer-encoding: chunked\r\n" if self._chunked else b"")
        self._clock = asyncio.get_running_loop().time
        self._wrote = self._clock()

    def send(self, piece: bytes) -> bool:
        """Write a piece, and return True. Return False if the client is gone or has not read the previous piece yet."""
        transport = self._transport
        if transport.is_closing():
            return False
        if transport.get_write_buffer_size():
            if self._clock() - self._wrote > self._patience:
                transport.abort()
            return False
        self._wrote = self._clock()
        if not self._bodyless:
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
        return True

    def end(self) -> None:
        """End the reply."""
        if self._exchange.connection.is_closing():
            return
        self._limit_unread(0)
        if self._chunked and not self._bodyless:
            self._transport.write(b"0\r\n\r\n")
        self._exchange.end()

    def _limit_unread(self, seconds: float) -> None:
        """Let the kernel end the connection if the client takes no bytes for this time. 0 is the kernel's default."""
        peer = self._transport.get_extra_info("socket")
        if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):  # the connection has just ended
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
