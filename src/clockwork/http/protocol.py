"""uvicorn's HTTP/1.1, with limits on heads that it lacks: their size, and the time they may take.

And bodies come to the application in pieces of a megabyte instead of 64 KiB: most come whole, and it is woken once.
Long ones are not parsed at all, see `clockwork.http.receiving`.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clockwork.http.asgi import ClientGoneError
from clockwork.http.config import DEFAULT, HttpConfig
from clockwork.http.receiving import LARGE, LARGE_BODY, Held, LargeBody, Parsing
from clockwork.units import Bytes


class LimitedProtocol(HttpToolsProtocol, Parsing):
    """A connection."""

    limits: HttpConfig = DEFAULT
    held: Held = Held(DEFAULT.max_held)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._announced: Bytes = 0  #: the length of a body that will be large

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        if self.large is not None:
            self.large.end(ClientGoneError())
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes; those that end within a head are counted."""
        super().data_received(data)
        if self._announced:
            self._receive_large()
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.limits.max_head:
            self.send_400_response("The head of the request is too large.")
        elif self._head_timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head has ended."""
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()
        super().on_headers_complete()
        self._announced = self._large_length()

    def on_message_complete(self) -> None:
        """A request has ended."""
        self._announced = 0
        super().on_message_complete()

    def large_received(self, nbytes: Bytes) -> None:
        """Bytes have been received into the large body."""
        assert self.large is not None
        self._unset_keepalive_if_required()
        if self.large.received(nbytes):
            self.large = None
            self.parser = httptools.HttpRequestParser(self)  # the old one waits for what it has not seen
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _large_length(self) -> Bytes:
        """The length of the body that the head has announced, if it is to be received past the parser."""
        if self.expect_100_continue:
            return 0
        said = next((value for name, value in self.headers if name == b"content-length"), b"")
        length = int(said) if said.isdigit() and len(said) < 18 else 0  # the parser has refused what is no number
        return length if LARGE <= length <= self.limits.max_body else 0

    def _receive_large(self) -> None:
        """The parser has seen the head, and what came with it."""
        length, self._announced = self._announced, 0
        if self.transport.is_closing():
            return
        self.large = self.scope[LARGE_BODY] = LargeBody(length, self.cycle.body, self.held)  # type: ignore[typeddict-unknown-key]
        self.cycle.body = bytearray()

    def on_body(self, body: bytes) -> None:
        """A piece; the application is woken when there is enough, and at the end."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= self.limits.piece:
            self.flow.pause_reading()
            cycle.message_event.set()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
