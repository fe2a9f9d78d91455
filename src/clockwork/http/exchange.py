"""A request of an HTTP connection, and the reply to it.

The head and the body of a reply are sent in one write, except for streams (`clockwork.http.streaming`). Two writes
would take two system calls and two packets, and would wake the client twice. Of the 120 us that a request took, the
second write took 20 us.
"""

import asyncio
from typing import Any, Final, Protocol

from clockwork.http.heads import HeaderList
from clockwork.http.presence import ClientGoneError, Presence
from clockwork.http.receiving import LargeBody
from clockwork.http.replies import Reply
from clockwork.http.responding import CLOSE, NOT_MODIFIED, encode_head
from clockwork.tracing.trace import Trace
from clockwork.units import KIB, Bytes, Nanos

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

MAX_JOINED: Final = 16 * KIB
"""Largest reply in bytes whose parts are joined before they are written.

Copying such a reply takes less time than writing its parts separately.
"""


class Link(Protocol):
    """What an exchange needs of its connection. `clockwork.http.connection.HttpConnection` implements it."""

    @property
    def transport(self) -> Any:
        """The connection's transport."""
        ...

    @property
    def presence(self) -> Presence:
        """Reports whether the client is still connected."""
        ...

    @property
    def piece(self) -> Bytes:
        """Number of bytes of a body that are delivered at a time."""
        ...

    @property
    def drained(self) -> asyncio.Future[None] | None:
        """Is done when the client has read earlier replies. None: the client reads fast enough."""
        ...

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address and port, if it has any."""
        ...

    @property
    def scheme(self) -> str:
        """The scheme of the client's URLs."""
        ...

    def is_closing(self) -> bool:
        """Return whether nothing more can be sent."""
        ...

    def date(self) -> bytes:
        """Return the header Date with its line end."""
        ...

    def write(self, *parts: Any) -> None:
        """Write bytes, unless the connection is closing."""
        ...

    def set_reading(self) -> None:
        """Read if the connection has room for more bytes."""
        ...

    def replied(self, exchange: "Exchange") -> None:
        """Continue after the whole reply to a request was written."""
        ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


class Exchange:
    """One request and its reply. The connection adds the bytes of the body as they arrive."""

    __slots__ = (
        "_body", "_waiter", "arrived", "connection", "expects_continue", "has_begun", "headers", "is_large",
        "is_replied", "is_whole", "keep_alive", "large", "method", "path", "query", "raw_path", "trace", "unwanted",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        connection: Link,
        method: str,
        raw_path: bytes,
        path: str,
        query: bytes,
        version: str,
        headers: HeaderList,
        arrived: Nanos,
    ) -> None:
        """Begin with the head of a request.

        Args:
            connection: the client's connection.
            method: the method.
            raw_path: the path as the client sent it.
            path: the path without percent-encoding.
            query: the query, or empty.
            version: the version of HTTP, "1.0" or "1.1".
            headers: the headers, with names in lower case.
            arrived: the earliest time at which the first byte may have arrived. The SLO counts from this time.
        """
        self.connection: Final = connection
        self.method: Final = method
        self.raw_path: Final = raw_path
        self.path: Final = path
        self.query: Final = query
        self.version: Final = version
        self.headers: Final = headers
        self.arrived: Final = arrived
        self.keep_alive = True  #: whether the connection stays open after the reply
        self.expects_continue = False  #: whether the client waits for the status 100 before it sends the body
        self.is_large = False  #: whether the body bypasses the parser
        self.large: LargeBody | None = None  #: such a body
        self.is_whole = False  #: whether the whole body has arrived
        self.has_begun = False  #: whether the head of a reply without a known length was written
        self.is_replied = False  #: whether the whole reply was written
        self.unwanted: Bytes = 0  #: number of bytes of the body that arrived and were discarded
        self.trace: Trace | None = None  #: the trace of the request, if it is traced
        self._body = bytearray()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def presence(self) -> Presence:
        """Reports whether the client is still connected."""
        return self.connection.presence

    # --- the body ----------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> Bytes:
        """Number of bytes of the body that have arrived and were not taken."""
        return len(self._body)

    def add(self, body: bytes) -> None:
        """Add bytes of the body. They are ignored after the reply."""
        if self.is_replied:
            self.unwanted += len(body)
        else:
            self._body += body

    def take(self) -> bytearray:
        """Remove and return the bytes of the body that have arrived."""
        body, self._body = self._body, bytearray()
        return body

    def end_body(self) -> None:
        """Record that the whole body has arrived."""
        self.is_whole = True
        self.wake()

    def wake(self) -> None:
        """Continue `next_piece`, because bytes have arrived or the client has disconnected."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def invite_body(self) -> None:
        """Send the status 100 if the client waits for it before it sends the body."""
        if self.expects_continue and not self.is_whole:
            self.connection.write(CONTINUE)
        self.expects_continue = False

    async def next_piece(self) -> bytearray:
        """Return the bytes of the body that have arrived. Wait until they are a piece or the end of the body.

        Raises:
            ClientGoneError: the client has disconnected, or the connection has sent an error as the reply.
        """
        connection = self.connection
        self.invite_body()
        while not (self.is_whole or self.waiting >= connection.piece or self.is_replied or self.presence.is_gone()):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.is_replied or self.presence.is_gone():
            raise ClientGoneError
        taken = self.take()
        connection.set_reading()
        return taken

    # --- the reply ---------------------------------------------------------------------------------------------------

    async def respond(self, reply: Reply) -> None:
        """Wait until the client has read earlier replies. Then send the reply."""
        connection = self.connection
        if connection.drained is not None:
            await connection.drained
        if not self.is_replied and not connection.is_closing():
            self.reply(reply)

    def reply(self, reply: Reply) -> None:
        """Send the reply at once."""
        size = sum(map(len, reply.parts))
        # 304 has no body, and Content-Length would be the length of another reply (RFC 9110, section 8.6)
        head = self._head(reply, b"" if reply.status == NOT_MODIFIED else b"content-length: %d\r\n" % size)
        if self.method == "HEAD":
            self.connection.write(head)
        elif size > MAX_JOINED:
            self.connection.write(head, *reply.parts)
        else:
            self.connection.write(b"".join((head, *reply.parts)))
        self.end()

    def begin_reply(self, reply: Reply, framing: bytes) -> None:
        """Send the head of a reply without a known length. ``framing`` is the header Transfer-Encoding, or empty."""
        self.has_begun = True
        self.connection.write(self._head(reply, framing))

    def refuse(self, reply: Reply) -> None:
        """Send the reply to a request with a malformed body, and close the connection.

        If another reply has begun, only close the connection.
        """
        self.keep_alive = False
        if self.has_begun:
            self.end()
        else:
            self.reply(reply)

    def _head(self, reply: Reply, framing: bytes) -> bytes:
        if CLOSE in reply.headers or (self.expects_continue and not self.is_whole):
            self.keep_alive = False  # a client that waits for the status 100 may or may not send the body now
        return encode_head(reply, self.connection.date(), framing, self.version, keep_alive=self.keep_alive)

    def end(self) -> None:
        """End the reply, discard the body, and let the connection continue with the next request."""
        self.is_replied = True
        self.unwanted += len(self.take())
        self.connection.replied(self)
        self.wake()
