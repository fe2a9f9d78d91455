"""A connection of the HTTP/1.1 server: uvicorn's connection class, with limits that uvicorn lacks.

There are limits on the number of connections, on the size of a request's head, and on the time that a client takes to
read a reply. The application gets a body in pieces of 1 MiB, while uvicorn uses pieces of 64 KiB. Therefore most bodies
are one piece, and the application is woken only once. Long bodies bypass the parser (`clockwork.http.receiving`). All
errors are sent as JSON, while uvicorn sends some errors as plain text.
"""

import asyncio
import logging
from functools import partial
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from clockwork.frontend.body_quota import BodyQuota
from clockwork.host.reception import Key, Reception
from clockwork.http.asgi import BEGAN, PRESENCE, RESPOND, STREAM, ClientGoneError, Presence, Reply, error_reply
from clockwork.http.config import DEFAULT, HttpConfig
from clockwork.http.heads import BadHeadError, LargeHeadError, check_head
from clockwork.http.receiving import LARGE_BODY, MIN_LARGE, LargeBody, Parsing
from clockwork.http.responding import Stream, keeps_alive, respond, write
from clockwork.http.shedding import (
    NO_MODEL,
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

log = logging.getLogger("clockwork.http")

BAD_BYTES: Final = "the bytes are not an HTTP/1.1 request"
BAD_BODY: Final = "the chunks of the body are malformed (RFC 9112, section 7.1)"

LARGE_HEAD: Final = "the head of the request exceeds the limit of {limit} bytes (raise it with --max-head)"
"""Error message for a head that is too large."""

FULL: Final = "connection limit reached ({limit}); retry later, or use fewer connections"
"""Error message when too many connections are open."""


class LimitedProtocol(HttpToolsProtocol, Parsing):
    """An HTTP connection of one client."""

    limits: HttpConfig = DEFAULT
    quota: BodyQuota = BodyQuota(DEFAULT.max_held)
    allocate: Allocate = staticmethod(uninitialised)
    reception: Reception
    models: dict[bytes, Key]  #: the models of inference requests, by path
    shed_replies: ShedReplies

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create a connection. The arguments are passed to uvicorn's class."""
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timeout: WriteTimeout | None = None
        self._presence = Presence()
        self._unwanted: Bytes = 0  #: number of bytes of a refused request's body that the parser has read
        self._announced: Bytes = 0  #: length of the large body that the head has announced
        self._after_upgrade: Bytes | None = 0  #: length of a body that the parser takes for a different protocol
        self._ignore_rest = False  #: whether further bytes are ignored, because the connection is ending
        self._last_reply: Reply | None = None  #: an error that is sent after the replies to earlier requests
        self._head_may_be_large = False  #: whether the last read may contain the end of a head that exceeds the limit
        self._host: bytes | None = None  #: the last valid value of the header Host
        self._arrived: Nanos = 0  #: earliest time at which the bytes of the last read may have arrived
        self._unread = False  #: whether the kernel still has bytes of a message after the last read
        self._was_paused = True  #: whether reading was paused before the last read; true for a new connection
        self._at_boundary = True  #: whether the parser is between two messages
        self._checked = False  #: whether the first request of the last read was already checked and accepted
        self._shed_lately = False  #: whether requests were shed since the keep-alive timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of the first request, or refuse the connection if too many are open."""
        super().connection_made(transport)
        self._write_timeout = WriteTimeout(transport, self.limits.write_timeout, transport.abort)
        if len(self.connections) > self.limits.max_connections:
            text = FULL.format(limit=self.limits.max_connections)
            self._refuse(503, text, Status.SKIPPED_BY_CONTROLLER)
        else:
            self._await_head()
        log.debug("HTTP connection from %s opened", self.client)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers, discard an incomplete body, and cancel the requests in progress."""
        log.debug("HTTP connection from %s closed: %s", self.client, exc or "no error")
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
        paused = self._was_paused and reception.is_behind(now)  # `earliest_arrival` cannot measure a shorter pause
        self._arrived = reception.arrivals.earliest_arrival(
            self.transport, now, one_message=not self._unread, paused=paused
        )
        self._was_paused = False
        self._unread = len(data) == MIN_LARGE
        self._checked = False
        if reception.is_behind(now) and self._shed(data, now):
            return
        self._head_may_be_large = self._head_bytes + len(data) > self.limits.max_head
        self._feed(data)
        if self._announced:
            self._receive_large()
        if self.transport.is_closing() or not (self._in_head or self._is_idle()):
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.limits.max_head:
            self._refuse(431, LARGE_HEAD.format(limit=self.limits.max_head), Status.INVALID_REQUEST)
        elif self._head_timer is None:
            self._await_head()

    def _shed(self, data: bytes, now: Nanos) -> bool:
        """Refuse a request without the parser, and return True.

        Return False if the request need not be refused, or if it is not certain that ``data`` is exactly one whole
        request.
        """
        cycle: Any = self.cycle
        if not self._at_boundary or (cycle is not None and not cycle.response_complete):
            return False
        model = self.models.get(posted_path(data))
        if model is None:
            return False
        slo = stated_slo(data, ignore_timeout=self.limits.ignore_timeout)
        shed = self.reception.check(now, model[0], self._arrived, slo, model[1])
        if shed is None:
            self._checked = True
            return False
        if whole_request(data) is None:  # this check is the slowest, so it comes last
            return False
        self.reception.count_refused(shed, now, *model, self._arrived, slo)
        self._stop_timer()
        self._shed_lately = True
        if self.timeout_keep_alive_task is None:  # no timer is set before the connection's first request
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
            if isinstance(cause, LargeHeadError):
                self._refuse(431, str(cause), Status.INVALID_REQUEST)
                return
            cycle: Any = self.cycle
            in_body = not self._in_head and cycle is not None and cycle.more_body
            text = BAD_BODY if in_body else BAD_BYTES
            self.send_400_response(str(cause) if isinstance(cause, BadHeadError) else text)

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Ignore a client's offer to change the protocol (RFC 9110, section 7.8), and receive the request's body.

        The parser treats all bytes after the head as bytes of the offered protocol. These bytes must not be parsed as
        requests, because a body could contain forged requests.
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
        """Refuse bytes that are not a valid HTTP/1.1 request. ``msg`` is the text of the error."""
        self._refuse(400, msg, Status.INVALID_REQUEST)

    def on_message_begin(self) -> None:
        """Begin a request. The parser calls this method after it has read the first byte of a head."""
        self._in_head = True
        self._at_boundary = False
        super().on_message_begin()
        self.scope[BEGAN] = self._arrived  # type: ignore[typeddict-unknown-key]
        self.scope[PRESENCE] = self._presence  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Check the head, and record the length of the body that the head announces."""
        if self._head_may_be_large and self._length_of_head() > self.limits.max_head:
            raise LargeHeadError(LARGE_HEAD.format(limit=self.limits.max_head))
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

    def _length_of_head(self) -> Bytes:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_message_complete(self) -> None:
        """End a request. The parser calls this method when it has read the last byte of a body."""
        if self._after_upgrade == 0:
            self._announced = 0
            self._at_boundary = True
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()  # the server notices a disconnect only while it reads

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start a request. An inference request is refused or put into the inbox. Any other request starts at once."""
        scope: Any = cycle.scope
        scope[RESPOND] = partial(respond, cycle)
        scope[STREAM] = partial(Stream, cycle)
        if scope["http_version"] == "1.0":
            cycle.keep_alive = keeps_alive(scope["headers"])
        reception = self.reception
        key = self.models.get(scope["raw_path"]) if scope["method"] == "POST" else NO_MODEL
        if key is None:
            key = model_of("POST", scope["path"])
            if reception.has_answered(*key):  # clients may invent names, so only known names are kept
                remember(self.models, scope["raw_path"], key)
        model, version = key
        if not model:
            super()._start_asgi_task(cycle, app)
            return
        checked, self._checked = self._checked, False
        large = self._announced > 0 or LARGE_BODY in scope
        if (large or not checked) and reception.is_behind():
            shed = reception.refuses(model, scope[BEGAN], large=large, version=version)
            if shed is not None:
                write(cycle, shed_reply(shed))
                return
        reception.put(partial(super()._start_asgi_task, cycle, app), model, version=version)

    def large_received(self, nbytes: Bytes) -> None:
        """Count bytes that were received into the large body. Wake the application when the body is complete."""
        assert self.large is not None
        self._unset_keepalive_if_required()
        if self.large.received(nbytes):
            self.large = None
            self._renew_parser()  # the old parser still waits for the bytes of this body
            self._at_boundary = True
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _large_length(self) -> Bytes:
        """Return the length of the announced body if it bypasses the parser, else 0."""
        length = 0 if self.expect_100_continue else self._number(b"content-length")
        return length if MIN_LARGE <= length <= self.limits.max_body else 0

    def _number(self, header: bytes) -> Bytes:
        """Return the number in a header, or 0 if the request does not have this header.

        The result is also 0 if the value is not a number. The application refuses a request with such a value later.
        """
        value = next((value for name, value in self.headers if name == header), b"")
        return int(value) if value.isdigit() and len(value) < 18 else 0

    def _large_body(self, length: Bytes, begin: Any) -> LargeBody:
        """Return a `LargeBody` with memory for a body.

        The memory is shared with the worker if the worker can use the tensors in the body unchanged.
        """
        if self.cycle.response_complete:  # the request was refused before its body was received
            return LargeBody(length, bytes(self._unwanted + len(begin)), self.quota, None)
        before = self._number(b"inference-header-content-length")
        unchanged = before and not any(name == b"content-encoding" for name, _ in self.headers)
        return LargeBody(length, begin, self.quota, self.allocate if unchanged else uninitialised, before)

    def _receive_large(self) -> None:
        """Receive the rest of a body without the parser. The parser has read the beginning of the body."""
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
        """End the exchange of a request and its reply, which was written to the transport."""
        was_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self._last_reply is not None:
            if was_last:
                self._send_last(self._last_reply)
        elif self.cycle.more_body and self._head_timer is None:  # limits the time for a refused request's body
            self._await_head()

    def pause_writing(self) -> None:
        """Start a timer for a client that reads its replies too slowly."""
        super().pause_writing()
        if self._write_timeout is not None:
            self._write_timeout.begin()

    def resume_writing(self) -> None:
        """Stop the timer, because the client has read enough."""
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
        """Close the connection after its requests in progress. uvicorn calls this method when the server ends."""
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def _is_idle(self) -> bool:
        """Return whether no request is in progress."""
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
            text = f"the head of the request arrived too slowly; the limit is {self.limits.head_timeout:g} s"
            self._refuse(408, text, Status.INVALID_REQUEST)
        else:
            self._close()

    def _refuse(self, http: int, text: str, status: Status) -> None:
        """Send an error that does not come from the application, and close the connection."""
        if self.transport.is_closing() or self._ignore_rest:
            return
        self._stop_timer()
        reply = error_reply(Failure(http, "", text, status, retry_after=SECOND if http == 503 else None))
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self._send_last(reply)
        elif cycle.more_body and not self.pipeline:  # the fault is in the body of the request in progress
            cycle.keep_alive = False
            write(cycle, reply)
        else:  # the replies to earlier requests must be sent first
            self._ignore_rest, self._last_reply = True, reply
            if self.pipeline and cycle.more_body:
                self.pipeline.popleft()

    def _send_last(self, reply: Reply) -> None:
        """Send a reply for which uvicorn has no cycle object, and close the connection."""
        lines = [b"%s: %s\r\n" % header for header in reply.headers]
        (body,) = reply.parts
        end = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[reply.status], *lines, end, body)))
        self._close()

    def _close(self) -> None:
        """Close the connection when all bytes are sent, or when the client reads nothing for too long."""
        self._stop_timer()
        self.transport.close()
        if self._write_timeout is not None and self.transport.get_write_buffer_size():
            self._write_timeout.begin()
