"""The socket and the timers of one HTTP/1.1 connection.

The requests of a connection are served one after another, in their order. While a request waits for the replies to
earlier requests (RFC 9112, section 9.3.2), nothing more is read.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from clockwork.frontend.body_quota import BodyQuota
from clockwork.host.inbox import Waiting
from clockwork.host.reception import Key, Reception
from clockwork.http.config import HttpConfig
from clockwork.http.exchange import Exchange
from clockwork.http.heads import BadRequestError
from clockwork.http.parsing import Parser
from clockwork.http.presence import Presence
from clockwork.http.receiving import MIN_LARGE
from clockwork.http.replies import Reply, error_reply
from clockwork.http.responding import DateHeader, encode_head
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
from clockwork.net.arrival import may_have_unread
from clockwork.net.write_timeout import WriteTimeout
from clockwork.oip.failures import Failure
from clockwork.units import MILLISECOND, SECOND, Nanos
from clockwork.wire.frame import Allocate

log = logging.getLogger("clockwork.http")

FULL: Final = "connection limit reached ({limit}); retry later, or use fewer connections"
"""Error message when too many connections are open."""

LAST_CHANCE: Final[Nanos] = 50 * MILLISECOND
"""A time limit that is noticed later than this ends only after this time, because the event loop runs timers before it
reads. So a client does not lose its connection because the server was stopped.
"""


class Port:
    """The connections of one server, and what they share."""

    def __init__(
        self,
        serve: Callable[[Exchange], Coroutine[Any, Any, None]],
        reception: Reception,
        config: HttpConfig,
        quota: BodyQuota,
        allocate: Allocate,
    ) -> None:
        """Start without connections.

        Args:
            serve: serves a request.
            reception: determines when bytes arrived, refuses requests under overload, and queues the others.
            config: the limits.
            quota: counts the bytes of bodies that are being received.
            allocate: returns memory that is shared with the worker.
        """
        self.serve: Final = serve
        self.reception: Final = reception
        self.config: Final = config
        self.quota: Final = quota
        self.allocate: Final = allocate
        self.buffer: Final = memoryview(bytearray(MIN_LARGE))
        """Receives the bytes of all connections. Each connection copies them before the next one reads."""
        self.date: Final = DateHeader()
        self.shed_replies: Final = ShedReplies()
        self.models: Final[dict[bytes, Key]] = {}  #: the models of inference requests, by path
        self.connections: Final[set[HttpConnection]] = set()
        self.tasks: Final[set[asyncio.Task[None]]] = set()  #: requests that are being served
        self.is_closing = False
        self._loop = asyncio.get_running_loop()
        self._all_closed: asyncio.Future[None] | None = None

    def start(self, exchange: Exchange) -> None:
        """Serve a request in a task."""
        task = exchange.presence.task = self._loop.create_task(self.serve(exchange))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def closed(self, connection: "HttpConnection") -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        if self._all_closed is not None and not self.connections and not self._all_closed.done():
            self._all_closed.set_result(None)

    async def close(self, grace: float) -> None:
        """End all connections. Requests may finish within ``grace`` seconds."""
        self.is_closing = True
        self._all_closed = self._loop.create_future()
        for connection in list(self.connections):
            connection.leave()
        if self.connections:
            await asyncio.wait((self._all_closed,), timeout=grace)
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        for connection in list(self.connections):
            connection.abort()
        if self.connections:
            await asyncio.wait((self._all_closed,), timeout=grace)


class HttpConnection(asyncio.BufferedProtocol):
    """The connection of one client."""

    def __init__(self, port: Port) -> None:
        """Wait for a client of ``port``."""
        self.presence: Final = Presence()
        self.piece: Final = port.config.piece  #: number of bytes of a body that are delivered at a time
        self.drained: asyncio.Future[None] | None = None  #: done when the client has read; None: it reads fast enough
        self.transport: Any
        self._port = port
        self._reception = port.reception
        self._parser = Parser(self, port.config, port.quota, port.allocate)
        self._waiting: deque[Exchange] = deque()  #: requests that wait for the replies to earlier requests
        self._serving: Exchange | None = None
        self._is_advancing = False
        self._inboxed: Waiting | None = None  #: the request that is being served, while it waits in the inbox
        self._last_reply: Reply | None = None  #: an error that is sent after the replies to earlier requests
        self._ignores_rest = False  #: whether further bytes are ignored, because the connection is ending
        self._write_timeout: WriteTimeout | None = None
        self._limit: Nanos | None = None  #: time at which the connection ends unless something happens
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: Nanos = 0
        self._is_reading = True
        self._is_shed = False  #: whether reading is paused because the server is overloaded
        self._unread = False  #: whether the kernel still has bytes of a message after the last read
        self._was_paused = True  #: whether reading was paused before the last read; true for a new connection
        self._paused_at: Nanos | None = None
        """When reading was paused because requests waited for earlier replies, if bytes may have waited since then."""
        self._is_checked = False  #: whether the first request of the last read was already checked and accepted

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address and port, if it has any."""
        peer = self.transport.get_extra_info("peername")
        return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None

    @property
    def scheme(self) -> str:
        """The scheme of the client's URLs."""
        return "http" if self.transport.get_extra_info("sslcontext") is None else "https"

    # --- the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Wait for the head of the first request, or refuse the connection if too many are open."""
        port = self._port
        self.transport = transport
        port.connections.add(self)
        if port.is_closing:
            transport.close()
        elif len(port.connections) > port.config.max_connections:
            text = FULL.format(limit=port.config.max_connections)
            self._refuse(503, text, Status.SKIPPED_BY_CONTROLLER)
        else:
            self._set_limit(self._reception.clock.now(), port.config.head_timeout)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("HTTP connection from %s opened", self.client)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, discard an incomplete body, and cancel the request in progress."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("HTTP connection from %s closed: %s", self.client, exc or "no error")
        self._port.closed(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._write_timeout is not None:
            self._write_timeout.end()
        if self._inboxed is not None:
            self._inboxed.withdraw()
        self._parser.close()
        self.presence.leave()
        self._waiting.clear()
        if self._serving is not None:
            self._serving.wake()
            self._serving = None
        self._resume()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory into which the next bytes are received."""
        large = self._parser.large
        return self._port.buffer if large is None else large.rest()

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        if self._parser.large is not None:
            self._parser.large_received(nbytes)
        elif not (self._ignores_rest or self.transport.is_closing()):
            self._received(bytes(self._port.buffer[:nbytes]))

    def _received(self, data: bytes) -> None:
        """Shed or parse the bytes of one read."""
        reception = self._reception
        now = reception.clock.now()
        is_behind = reception.is_behind(now)
        arrived = reception.arrivals.earliest_arrival(
            self.transport,
            now,
            one_message=not self._unread,
            paused=self._was_paused and is_behind,  # `earliest_arrival` cannot measure a shorter pause
        )
        if self._paused_at is not None:
            arrived = min(arrived, self._paused_at)
            self._paused_at = None
        self._was_paused = False
        self._unread = len(data) == MIN_LARGE
        self._is_checked = False
        if is_behind and self._shed(data, now, arrived):
            return
        parser = self._parser
        was_in_head = parser.is_in_head
        try:
            parser.feed(data, arrived)
        except BadRequestError as error:
            self._refuse(error.http, str(error), Status.INVALID_REQUEST)
            return
        if self._serving is None and parser.is_in_head and not was_in_head:
            self._set_limit(now, self._port.config.head_timeout)

    def _shed(self, data: bytes, now: Nanos, arrived: Nanos) -> bool:
        """Refuse a request without the parser, and return True.

        Return False if the request need not be refused, or if it is not certain that ``data`` is exactly one whole
        request.
        """
        if self._serving is not None or self.drained is not None or not self._parser.is_between:
            return False
        port, reception = self._port, self._reception
        model = port.models.get(posted_path(data))
        if model is None:
            return False
        slo = stated_slo(data, ignore_timeout=port.config.ignore_timeout)
        shed = reception.check(now, model[0], arrived, slo, model[1])
        if shed is None:
            self._is_checked = True
            return False
        if whole_request(data) is None:  # this check is the slowest, so it comes last
            return False
        reception.count_refused(shed, now, *model, arrived, slo)
        self._set_limit(now, port.config.keep_alive)
        self.transport.write(port.shed_replies.bytes(shed, port.date.line(now)))
        if reception.backpressure.is_needed and not self._is_shed:
            self._is_shed = True
            self.set_reading()
            reception.backpressure.pause(self)
        return True

    def read_again(self) -> None:
        """Resume reading after back-pressure."""
        self._is_shed = False
        self.set_reading()

    def set_reading(self) -> None:
        """Read if the connection has room for more bytes."""
        newest = self._parser.exchange
        wanted = not (self._waiting or self._is_shed or (newest is not None and newest.waiting >= self.piece))
        if wanted == self._is_reading or self.transport.is_closing():
            return
        self._is_reading = wanted
        if wanted:
            if self._paused_at is not None and not may_have_unread(self.transport):
                self._paused_at = None
            self.transport.resume_reading()
        else:
            self._was_paused = True
            if self._waiting and self._paused_at is None:
                self._paused_at = self._reception.clock.now()
            self.transport.pause_reading()

    # --- requests ----------------------------------------------------------------------------------------------------

    def opened(self, exchange: Exchange) -> None:
        """Begin a request, whose head has arrived. Later requests wait for the replies to earlier requests."""
        self._waiting.append(exchange)
        self._advance()

    def body_ended(self) -> None:
        """Note that the body of the newest request has arrived."""
        if self._serving is None:
            self._set_limit(self._reception.clock.now(), self._port.config.keep_alive)

    def ignore_rest(self) -> None:
        """Ignore all further bytes, and close the connection after the reply to the newest request."""
        self._ignores_rest = True
        newest = self._parser.exchange
        assert newest is not None
        newest.keep_alive = False
        if newest.is_replied:
            self._close()

    def replied(self, exchange: Exchange) -> None:
        """Continue after the whole reply to a request was written."""
        if not exchange.keep_alive:
            self._close()
        if self._serving is exchange:
            self._serving = None
            self._advance()

    def _advance(self) -> None:
        """Start the next requests until one of them is not replied at once."""
        if self._is_advancing:  # a request was replied at once
            return
        self._is_advancing = True
        while self._serving is None and self._waiting and not self.transport.is_closing():
            self._serving = self._waiting.popleft()
            self._start(self._serving)
        self._is_advancing = False
        if self._serving is not None:
            self._limit = None
        elif not self.transport.is_closing():
            self._rest()
        self.set_reading()

    def _rest(self) -> None:
        """Limit the time until the next request, or until the rest of the current one."""
        config, parser = self._port.config, self._parser
        if self._last_reply is not None:
            self._send_last(self._last_reply)
        else:
            is_idle = parser.is_between
            self._set_limit(self._reception.clock.now(), config.keep_alive if is_idle else config.head_timeout)

    def _start(self, exchange: Exchange) -> None:
        """Start a request. An inference request is refused or put into the inbox. Any other request starts at once."""
        port, reception = self._port, self._reception
        key = port.models.get(exchange.raw_path) if exchange.method == "POST" else NO_MODEL
        if key is None:
            key = model_of("POST", exchange.path)
            if reception.has_answered(*key):  # clients may invent names, so only known names are kept
                remember(port.models, exchange.raw_path, key)
        model, version = key
        if not model:
            port.start(exchange)
            return
        checked, self._is_checked = self._is_checked, False
        if self.drained is None and (exchange.is_large or not checked) and reception.is_behind():
            shed = reception.refuses(model, exchange.arrived, large=exchange.is_large, version=version)
            if shed is not None:
                exchange.reply(shed_reply(shed))
                return
        self._inboxed = reception.put(partial(self._serve, exchange), model, version=version)

    def _serve(self, exchange: Exchange) -> None:
        self._inboxed = None
        self._port.start(exchange)

    # --- replies -----------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Return whether nothing more can be sent."""
        return bool(self.transport.is_closing())

    def date(self) -> bytes:
        """Return the header Date with its line end."""
        return self._port.date.line(self._reception.clock.now())

    def write(self, *parts: Any) -> None:
        """Write bytes, unless the connection is closing."""
        if self.transport.is_closing():
            return
        if len(parts) == 1:
            self.transport.write(parts[0])
        else:
            self.transport.writelines(parts)

    def pause_writing(self) -> None:
        """Start a timer for a client that reads its replies too slowly."""
        if self.drained is None:
            self.drained = asyncio.get_running_loop().create_future()
        self._begin_write_timeout()

    def resume_writing(self) -> None:
        """Stop the timer, because the client has read enough."""
        self._resume()
        if self._write_timeout is not None and not self.transport.is_closing():
            self._write_timeout.end()

    def _resume(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _begin_write_timeout(self) -> None:
        if self._write_timeout is None:
            self._write_timeout = WriteTimeout(self.transport, self._port.config.write_timeout, self.transport.abort)
        self._write_timeout.begin()

    # --- the end -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Close the connection after its requests in progress, because the server ends."""
        if self._serving is None:
            self._close()
        else:
            newest = self._waiting[-1] if self._waiting else self._serving
            newest.keep_alive = False

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def _refuse(self, http: int, text: str, status: Status) -> None:
        """Send an error that does not come from the application, and close the connection."""
        if self.transport.is_closing() or self._ignores_rest:
            return
        reply = error_reply(Failure(http, "", text, status, retry_after=SECOND if http == 503 else None))
        newest = self._parser.exchange
        in_body = newest is not None and self._parser.is_in_body
        if in_body and newest.is_replied:  # type: ignore[union-attr]
            self._close()  # the request with the fault already has a reply
        elif self._serving is None:
            self._send_last(reply)
        elif in_body and newest is self._serving:
            newest.refuse(reply)
        else:  # the replies to earlier requests must be sent first
            self._ignores_rest, self._last_reply = True, reply
            if in_body:
                self._waiting.remove(newest)  # type: ignore[arg-type]

    def _send_last(self, reply: Reply) -> None:
        """Send a reply that belongs to no request, and close the connection."""
        (body,) = reply.parts
        head = encode_head(reply, self.date(), b"content-length: %d\r\n" % len(body), "1.1", keep_alive=False)
        self.write(head + body)
        self._close()

    def _close(self) -> None:
        """Close the connection when all bytes are sent, or when the client reads nothing for too long."""
        self._limit = None
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._begin_write_timeout()

    # --- the timer ---------------------------------------------------------------------------------------------------

    def _set_limit(self, now: Nanos, seconds: float) -> None:
        """End the connection after ``seconds``, unless the limit is changed before."""
        limit = self._limit = now + int(seconds * SECOND)
        if self._timer is None:
            self._arm(now, limit)
        elif limit < self._timer_at:
            self._timer.cancel()
            self._arm(now, limit)

    def _arm(self, now: Nanos, at: Nanos) -> None:
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0, at - now) / SECOND, self._check_limit)

    def _check_limit(self) -> None:
        self._timer = None
        limit = self._limit
        if limit is None or self.transport.is_closing():
            return
        now = self._reception.clock.now()
        if now > limit + LAST_CHANCE:
            limit = self._limit = now + LAST_CHANCE
        if now < limit:
            self._arm(now, limit)
        elif self._parser.is_in_head:
            text = f"the head of the request arrived too slowly; the limit is {self._port.config.head_timeout:g} s"
            self._refuse(408, text, Status.INVALID_REQUEST)
        else:
            self._close()
