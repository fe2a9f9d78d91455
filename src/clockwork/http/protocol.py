"""uvicorn's HTTP/1.1, with limits that uvicorn lacks: on connections, on heads, and on clients that do not read.

The application gets bodies in pieces of a MiB instead of 64 KiB, so most bodies arrive in one piece and wake the
application once. Long bodies are not parsed at all (`clockwork.http.receiving`). Errors that uvicorn would send as
plain text are sent as JSON, like all others.
"""

import asyncio
from functools import partial
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from clockwork.host.reception import Reception
from clockwork.http.asgi import BEGAN, PRESENCE, RESPOND, ClientGoneError, Presence, Reply, error_reply
from clockwork.http.config import DEFAULT, HttpConfig
from clockwork.http.heads import BadHeadError, check_head
from clockwork.http.receiving import LARGE_BODY, MIN_LARGE, BodyQuota, LargeBody, Parsing
from clockwork.http.responding import keeps_alive, respond, write
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
from clockwork.net.write_timeout import WriteTimeout
from clockwork.oip.failures import Failure
from clockwork.units import SECOND, Bytes, Nanos
from clockwork.wire.frame import Allocate, uninitialised

BAD_BYTES: Final = "the bytes are not an HTTP/1.1 request"
BAD_BODY: Final = "the chunks of the body are malformed (RFC 9112, section 7.1)"

FULL: Final = "connection limit reached ({limit}); retry later, or use fewer connections"
"""Error message when too many connections are open."""


class LimitedProtocol(HttpToolsProtocol, Parsing):
    """A connection of a client."""

    limits: HttpConfig = DEFAULT
    quota: BodyQuota = BodyQuota(DEFAULT.max_held)
    allocate: Allocate = staticmethod(uninitialised)
    reception: Reception
    models: dict[bytes, str]  #: the models of inference requests, by path
    shed_replies: ShedReplies

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take uvicorn's arguments."""
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timeout: WriteTimeout | None = None
        self._presence = Presence()
        self._unwanted: Bytes = 0  #: bytes of a refused request's body that the parser has seen
        self._announced: Bytes = 0  #: the length of the large body that the head has announced
        self._after_upgrade: Bytes | None = 0  #: the length of a body that the parser has taken for another protocol
        self._ignore_rest = False  #: no request follows on this connection
        self._last_reply: Reply | None = None  #: refuses a request behind others that are in progress
        self._host: bytes | None = None  #: the header Host of the last request, which is checked
        self._arrived: Nanos = 0  #: the earliest time at which the bytes read last may have arrived
        self._unread = False  #: the last read left bytes of the same message in the kernel
        self._was_paused = True  #: reading was paused since the last read; a new connection waited to be accepted
        self._at_boundary = True  #: the parser has seen whole messages only
        self._checked = False  #: the request at the beginning of the bytes read last need not be refused
        self._shed_lately = False  #: requests were shed without the parser since the keep-alive timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, or refuse the connection if there are too many."""
        super().connection_made(transport)
        self._write_timeout = WriteTimeout(transport, self.limits.write_timeout, transport.abort)
        if len(self.connections) > self.limits.max_connections:
            text = FULL.format(limit=self.limits.max_connections)
            self._refuse(503, text, Status.SKIPPED_BY_CONTROLLER)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers, give up an incomplete body, and cancel the requests in progress."""
        self._stop_timer()
        if self._write_timeout is not None:
            self._write_timeout.end()
        if self.large is not None:
            self.large.end(ClientGoneError())
        super().connection_lost(exc)
        self._presence.leave()

    def data_received(self, data: bytes) -> None:
        """Shed or parse the bytes that were read, and limit the size of an incomplete head."""
        if self.transport.is_closing() or self._ignore_rest:
            return
        reception = self.reception
        now = reception.clock.now()
        paused = self._was_paused and reception.is_behind(now)  # a shorter wait cannot be measured
        self._arrived = reception.arrivals.earliest_arrival(
            self.transport, now, one_message=not self._unread, paused=paused
        )
        self._was_paused = False
        self._unread = len(data) == MIN_LARGE
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
            text = f"the head of the request exceeds the limit of {self.limits.max_head} bytes"
            self._refuse(431, text, Status.INVALID_REQUEST)
        elif self._head_timer is None:
            self._await_head()

    def _shed(self, data: bytes, now: Nanos) -> bool:
        """Refuse a request without the parser if it must be refused and is certainly whole; return whether it was."""
        cycle: Any = self.cycle
        if not self._at_boundary or (cycle is not None and not cycle.response_complete):
            return False
        model = self.models.get(posted_path(data))
        if model is None:
            return False
        slo = stated_slo(data, ignore_timeout=self.limits.ignore_timeout)
        shed = self.reception.check(now, model, self._arrived, slo)
        if shed is None:
            self._checked = True
            return False
        if whole_request(data) is None:  # this check is expensive, and most requests do not need it
            return False
        self.reception.count_refused(model)
        self._stop_timer()
        self._shed_lately = True
        if self.timeout_keep_alive_task is None:  # the first request: no timer runs yet
            self._keep_alive()
        self.transport.write(self.shed_replies.bytes(shed, self.server_state.default_headers))
        if self.reception.backpressure.is_needed and not self.flow.read_paused:
            self._was_paused = True
            self.flow.pause_reading()
            self.reception.backpressure.pause(self)
        return True

    def read_again(self) -> None:
        """Resume reading after back-pressure."""
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            cycle: Any = self.cycle
            in_body = not self._in_head and cycle is not None and cycle.more_body
            text = BAD_BODY if in_body else BAD_BYTES
            self.send_400_response(str(cause) if isinstance(cause, BadHeadError) else text)

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Ignore the offer of another protocol (RFC 9110, section 7.8), and receive the request's body.

        The parser takes all bytes that follow for the other protocol. These bytes must not be parsed as requests,
        because a body could contain forged requests.
        """
        self._renew_parser()
        length, self._after_upgrade = self._after_upgrade, 0
        if length is None or length > self.limits.max_body:
            self._ignore_rest, self.cycle.keep_alive, self.cycle.more_body = True, False, False
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
        """Refuse bytes that are not HTTP/1.1; ``msg`` is the reason."""
        self._refuse(400, msg, Status.INVALID_REQUEST)

    def on_message_begin(self) -> None:
        """Note the beginning of a head."""
        self._in_head = True
        self._at_boundary = False
        super().on_message_begin()
        self.scope[BEGAN] = self._arrived  # type: ignore[typeddict-unknown-key]
        self.scope[PRESENCE] = self._presence  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Check the head, and note its end and the length of the body that it announces."""
        self._host = check_head(self.headers, self.parser.get_http_version(), self._host)
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
        """Note the end of a request."""
        if self._after_upgrade == 0:
            self._announced = 0
            self._at_boundary = True
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()  # while reading is paused, a disconnect goes unnoticed

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start a request: refuse an inference at once or put it into the inbox; start any other request at once."""
        scope: Any = cycle.scope
        scope[RESPOND] = partial(respond, cycle)
        if scope["http_version"] == "1.0":
            cycle.keep_alive = keeps_alive(scope["headers"])
        reception = self.reception
        model = self.models.get(scope["raw_path"]) if scope["method"] == "POST" else ""
        if model is None:
            model = model_of("POST", scope["path"])
            if reception.has_answered(model):  # clients may invent names
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
        """Note that bytes were received into the large body; wake the application when the body is whole."""
        assert self.large is not None
        self._unset_keepalive_if_required()
        if self.large.received(nbytes):
            self.large = None
            self._renew_parser()  # the old parser waits for the body, which it has not seen
            self._at_boundary = True
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _large_length(self) -> Bytes:
        """Return the length of the announced body if it bypasses the parser, else 0."""
        length = 0 if self.expect_100_continue else self._number(b"content-length")
        return length if MIN_LARGE <= length <= self.limits.max_body else 0

    def _number(self, header: bytes) -> Bytes:
        """Return a header's number, or 0 if there is no such header.

        A value that is not a number counts as 0, because the application refuses it.
        """
        value = next((value for name, value in self.headers if name == header), b"")
        return int(value) if value.isdigit() and len(value) < 18 else 0

    def _large_body(self, length: Bytes, begin: Any) -> LargeBody:
        """Allocate memory for a body: shared with the worker if the worker can use the tensors unchanged."""
        if self.cycle.response_complete:  # refused before its body was received
            return LargeBody(length, bytes(self._unwanted + len(begin)), self.quota, None)
        before = self._number(b"inference-header-content-length")
        unchanged = before and not any(name == b"content-encoding" for name, _ in self.headers)
        return LargeBody(length, begin, self.quota, self.allocate if unchanged else uninitialised, before)

    def _receive_large(self) -> None:
        """Receive the rest of a body without the parser, which has seen the head and the beginning of the body."""
        length, self._announced = self._announced, 0
        if self.transport.is_closing():
            return
        self.large = self.scope[LARGE_BODY] = self._large_body(length, self.cycle.body)  # type: ignore[typeddict-unknown-key]
        self.cycle.body = bytearray()

    def on_body(self, body: bytes) -> None:
        """Collect the bytes of a body, and wake the application when a piece is full."""
        cycle = self.cycle
        if cycle.response_complete:
            self._unwanted += len(body)
            return
        cycle.body += body
        if len(cycle.body) >= self.limits.piece:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Note that the reply was written to the transport."""
        was_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self._last_reply is not None:
            if was_last:
                self._send_last(self._last_reply)
        elif self.cycle.more_body and self._head_timer is None:  # limit the time of a refused request's body
            self._await_head()

    def pause_writing(self) -> None:
        """Note that the client reads too slowly."""
        super().pause_writing()
        if self._write_timeout is not None:
            self._write_timeout.begin()

    def resume_writing(self) -> None:
        """Note that the client has read."""
        super().resume_writing()
        if self._write_timeout is not None and not self.transport.is_closing():
            self._write_timeout.end()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, unless requests were shed since the timer was set."""
        if not self._shed_lately:
            self._close()
            return
        self._shed_lately = False
        self._keep_alive()

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """Close the connection when the server ends, after the requests in progress."""
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def _is_idle(self) -> bool:
        """Return whether no request is in progress: then the bytes read are empty lines."""
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
            text = f"the head of the request came too slowly; the limit is {self.limits.head_timeout:g} s"
            self._refuse(408, text, Status.INVALID_REQUEST)
        else:
            self._close()

    def _refuse(self, http: int, text: str, status: Status) -> None:
        """Send an error without the application, and close the connection."""
        if self.transport.is_closing() or self._ignore_rest:
            return
        self._stop_timer()
        reply = error_reply(Failure(http, "", text, status, retry_after=SECOND if http == 503 else None))
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self._send_last(reply)
        elif cycle.more_body and not self.pipeline:  # the body of the request in progress is wrong
            cycle.keep_alive = False
            write(cycle, reply)
        else:  # first come the replies to the requests before
            self._ignore_rest, self._last_reply = True, reply
            if self.pipeline and cycle.more_body:
                self.pipeline.popleft()

    def _send_last(self, reply: Reply) -> None:
        """Send a reply that belongs to no cycle, and close the connection."""
        lines = [b"%s: %s\r\n" % header for header in reply.headers]
        (body,) = reply.parts
        end = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[reply.status], *lines, end, body)))
        self._close()

    def _close(self) -> None:
        """Close the connection when all bytes are sent, or when the client has not read for too long."""
        self._stop_timer()
        self.transport.close()
        if self._write_timeout is not None and self.transport.get_write_buffer_size():
            self._write_timeout.begin()
