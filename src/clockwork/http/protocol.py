"""uvicorn's HTTP/1.1, with the limits that it lacks: on connections, on heads, and on clients that do not read.

And bodies come to the application in pieces of a megabyte instead of 64 KiB: most come whole, and it is woken once.
Long ones are not parsed at all, see `clockwork.http.receiving`. What uvicorn would say in plain text is said in JSON,
as everything else is.
"""

import asyncio
from functools import partial
from typing import Any, Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from clockwork.host.reception import Reception
from clockwork.http.asgi import BEGAN, PRESENCE, RESPOND, ClientGoneError, Presence
from clockwork.http.config import DEFAULT, HttpConfig
from clockwork.http.receiving import LARGE, LARGE_BODY, Held, LargeBody, Parsing
from clockwork.http.responding import respond, write
from clockwork.http.shedding import (
    ShedReplies,
    model_of,
    posted_path,
    remember,
    shed_reply,
    stated_slo,
    whole_request,
)
from clockwork.messages.status import Status
from clockwork.net.stalled import Stalled
from clockwork.oip.contract import Failure
from clockwork.units import Bytes, Nanos
from clockwork.wire.frame import Allocate, uninitialised

FULL: Final = "as many connections as are accepted are open already: ask again, or use fewer"
"""To whom there is no room for."""


class LimitedProtocol(HttpToolsProtocol, Parsing):
    """A connection."""

    limits: HttpConfig = DEFAULT
    held: Held = Held(DEFAULT.max_held)
    allocate: Allocate = staticmethod(uninitialised)
    reception: Reception
    models: dict[bytes, str]  #: what inferences were requested of, by path
    shed_replies: ShedReplies

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stalled: Stalled | None = None
        self._presence = Presence()
        self._unwanted: Bytes = 0  #: bytes of a refused request's body that the parser has seen
        self._announced: Bytes = 0  #: the length of a body that will be large
        self._after_upgrade: Bytes | None = 0  #: the length of a body that the parser has taken for another protocol
        self._deaf = False  #: nothing that still comes is a request
        self._arrived: Nanos = 0  #: the earliest moment at which what was read last may have come
        self._unread = False  #: the last read left bytes of the same message in the kernel
        self._was_paused = True  #: since the last read; a new connection has waited to be accepted
        self._at_boundary = True  #: the parser has seen whole messages only
        self._checked = False  #: the request that the last read begins with may be taken in
        self._shed_lately = False  #: since the keep-alive timer was set, requests came that the parser did not see

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is awaited, if there is room."""
        super().connection_made(transport)
        self._stalled = Stalled(transport, self.limits.write_timeout, transport.abort)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, FULL, Status.SKIPPED_BY_CONTROLLER)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        if self._stalled is not None:
            self._stalled.end()
        if self.large is not None:
            self.large.end(ClientGoneError())
        super().connection_lost(exc)
        self._presence.leave()

    def data_received(self, data: bytes) -> None:
        """Bytes; those that end within a head are counted."""
        if self.transport.is_closing() or self._deaf:
            return
        reception = self.reception
        now = reception.clock.now()
        paused = self._was_paused and reception.is_behind(now)  # else the wait was shorter than the kernel can measure
        self._arrived = reception.arrivals.reading(self.transport, now, one_message=not self._unread, paused=paused)
        self._was_paused = False
        self._unread = len(data) == LARGE
        self._checked = False
        if reception.is_behind(now) and self._shed(data, now):
            return
        self._feed(data)
        if self._announced:
            self._receive_large()
        if self.transport.is_closing() or not (self._in_head or self._is_idle()):
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.limits.max_head:
            text = f"the head of the request is too large; at most {self.limits.max_head} bytes are taken"
            self._refuse(431, text, Status.INVALID_REQUEST)
        elif self._head_timer is None:
            self._await_head()

    def _shed(self, data: bytes, now: Nanos) -> bool:
        """Refuse a request without the parser, if it has to be refused and that is possible."""
        cycle: Any = self.cycle
        if not self._at_boundary or (cycle is not None and not cycle.response_complete):
            return False
        model = self.models.get(posted_path(data))
        if model is None:
            return False
        shed = self.reception.check(now, model, self._arrived, stated_slo(data))
        if shed is None:
            self._checked = True
            return False
        if whole_request(data) is None:  # the dearer check comes last: most requests do not need it
            return False
        self.reception.count_refused(model)
        self._stop_timer()
        self._shed_lately = True
        if self.timeout_keep_alive_task is None:  # the first request of the connection, or it would be kept for ever
            self._keep_alive()
        self.transport.write(self.shed_replies.bytes(shed, self.server_state.default_headers))
        if self.reception.backpressure.is_needed and not self.flow.read_paused:
            self._was_paused = True
            self.flow.pause_reading()
            self.reception.backpressure.pause(self)
        return True

    def read_again(self) -> None:
        """The connection's turn to be read has come."""
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Another protocol is offered, and not wanted (RFC 9110, section 7.8): what follows is a body, if one was said.

        The parser takes all that follows for the other protocol; taken for requests, a body could say anything.
        """
        self._renew_parser()
        length, self._after_upgrade = self._after_upgrade, 0
        if length is None or length > self.limits.max_body:
            self._deaf, self.cycle.keep_alive, self.cycle.more_body = True, False, False
            self.cycle.message_event.set()
            return
        if length:
            self._announced = 0
            self.large = self.scope[LARGE_BODY] = self._large_body(length, rest[:length])  # type: ignore[typeddict-unknown-key]
            if len(rest) >= length:
                self.large_received(0)
        if len(rest) > length:
            self._feed(rest[length:])

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(400, "this is no request in HTTP/1.1", Status.INVALID_REQUEST)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._at_boundary = False
        super().on_message_begin()
        self.scope[BEGAN] = self._arrived  # type: ignore[typeddict-unknown-key]
        self.scope[PRESENCE] = self._presence  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """A head has ended."""
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()
        self._unwanted = 0
        self._announced = self._large_length()
        super().on_headers_complete()
        if self.parser.should_upgrade():
            chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
            self._after_upgrade = None if chunked else self._number(b"content-length")

    def on_message_complete(self) -> None:
        """A request has ended."""
        if self._after_upgrade == 0:
            self._announced = 0
            self._at_boundary = True
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()  # or nobody would notice that the client leaves

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request's turn has come: an inference is refused at once, or waits for its turn; others begin at once."""
        scope: Any = cycle.scope
        scope[RESPOND] = partial(respond, cycle)
        reception = self.reception
        model = self.models.get(scope["raw_path"]) if scope["method"] == "POST" else ""
        if model is None:
            model = model_of("POST", scope["path"])
            if reception.has_answered(model):  # clients invent names
                remember(self.models, scope["raw_path"], model)
        if not model:
            super()._start_asgi_task(cycle, app)
            return
        checked, self._checked = self._checked, False
        large = self._announced > 0 or LARGE_BODY in scope
        if (large or not checked) and reception.is_behind():
            shed = reception.refuses(model, scope[BEGAN], large=large)
            if shed is not None:
                write(cycle, shed_reply(shed))
                return
        reception.put(partial(super()._start_asgi_task, cycle, app), model)

    def large_received(self, nbytes: Bytes) -> None:
        """Bytes have been received into the large body."""
        assert self.large is not None
        self._unset_keepalive_if_required()
        if self.large.received(nbytes):
            self.large = None
            self._renew_parser()  # the old one waits for what it has not seen
            self._at_boundary = True
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _large_length(self) -> Bytes:
        """The length of the body that the head has announced, if it is to be received past the parser."""
        length = 0 if self.expect_100_continue else self._number(b"content-length")
        return length if LARGE <= length <= self.limits.max_body else 0

    def _number(self, header: bytes) -> Bytes:
        """What a header says, or 0; who needs a number there refuses what is none."""
        said = next((value for name, value in self.headers if name == header), b"")
        return int(said) if said.isdigit() and len(said) < 18 else 0

    def _large_body(self, length: Bytes, begin: Any) -> LargeBody:
        """Memory that is shared with the worker is for tensors that go there as they came."""
        if self.cycle.response_complete:  # refused before its body was there
            return LargeBody(length, bytes(self._unwanted + len(begin)), self.held, None)
        before = self._number(b"inference-header-content-length")
        as_it_comes = before and not any(name == b"content-encoding" for name, _ in self.headers)
        return LargeBody(length, begin, self.held, self.allocate if as_it_comes else uninitialised, before)

    def _receive_large(self) -> None:
        """The parser has seen the head, and what came with it."""
        length, self._announced = self._announced, 0
        if self.transport.is_closing():
            return
        self.large = self.scope[LARGE_BODY] = self._large_body(length, self.cycle.body)  # type: ignore[typeddict-unknown-key]
        self.cycle.body = bytearray()

    def on_body(self, body: bytes) -> None:
        """A piece; the application is woken when there is enough, and at the end."""
        cycle = self.cycle
        if cycle.response_complete:
            self._unwanted += len(body)
            return
        cycle.body += body
        if len(cycle.body) >= self.limits.piece:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """The reply is with the transport."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self.cycle.more_body and self._head_timer is None:  # refused before it was there: it may not come for ever
            self._await_head()

    def pause_writing(self) -> None:
        """The client reads slower than it is written to."""
        super().pause_writing()
        if self._stalled is not None:
            self._stalled.begin()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._stalled is not None and not self.transport.is_closing():
            self._stalled.end()

    def timeout_keep_alive_handler(self) -> None:
        """No request came for long."""
        if not self._shed_lately:
            self._close()
            return
        self._shed_lately = False
        self._keep_alive()

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """The server ends."""
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def _is_idle(self) -> bool:
        """Whether what came belongs to no request: empty lines, say."""
        cycle: Any = self.cycle
        return cycle is not None and cycle.response_complete and not cycle.more_body

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if self._head_bytes:
            self._refuse(408, "the head of the request came too slowly", Status.INVALID_REQUEST)
        else:
            self._close()

    def _refuse(self, http: int, text: str, status: Status) -> None:
        """Say why, without the application, and close."""
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:  # else it would be taken for the answer to another
            body = msgspec.json.encode(Failure(http, "", text, status).body())
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            if http == 503:
                head += b"retry-after: 1\r\n"
            self.transport.write(STATUS_LINE[http] + head + b"\r\n" + body)
        self._close()

    def _close(self) -> None:
        """Close when all is sent; a client that does not take it is not waited for for ever."""
        self._stop_timer()
        self.transport.close()
        if self._stalled is not None and self.transport.get_write_buffer_size():
            self._stalled.begin()
