"""A connection of the HTTP server without a socket."""

import asyncio
from typing import Any, cast

from clockwork.http.exchange import Exchange, Link
from clockwork.http.presence import Presence
from clockwork.units import MIB


class FakeTransport:
    """Collects what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = self.aborted = self.paused = False
        self.waiting = 0  #: number of bytes that the client has not read

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(bytes(data))

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> None:
        return None


class FakeConnection:
    """The part of a connection that an exchange uses."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.presence = Presence()
        self.piece = MIB
        self.drained: asyncio.Future[None] | None = None
        self.ended: list[Exchange] = []  #: the exchanges whose reply was sent

    def is_closing(self) -> bool:
        return self.transport.closed

    def date(self) -> bytes:
        return b"date: today\r\n"

    def write(self, *parts: Any) -> None:
        self.transport.writelines(parts)

    def set_reading(self) -> None:
        pass

    def replied(self, exchange: Exchange) -> None:
        self.ended.append(exchange)
        if not exchange.keep_alive:
            self.transport.close()

    def exchange(self, method: str = "GET", body: bytes = b"", version: str = "1.1") -> Exchange:
        """Return a whole request of the connection."""
        made = Exchange(cast(Link, self), method, b"/", "/", b"", version, [], 0)
        made.add(body)
        made.end_body()
        return made
