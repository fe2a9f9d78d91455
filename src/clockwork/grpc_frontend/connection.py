"""The socket and the timers of one gRPC connection."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from clockwork.grpc_frontend.handling import Handler, Serving
from clockwork.grpc_frontend.limits import (
    HANDSHAKE,
    IDLE,
    MAX_METADATA_BYTES,
    MAX_STREAMS,
    RESET_DELAY,
    WRITE_TIMEOUT,
)
from clockwork.host.local_client import LocalClient
from clockwork.host.reception import Reception
from clockwork.http2.connection import Connection, NotHttp2Error
from clockwork.http2.frames import NO_ERROR, Http2Error
from clockwork.http2.limits import Limits
from clockwork.net.frame_arrivals import FrameArrivals
from clockwork.net.write_timeout import CHECKS, MIN_PROGRESS, WriteTimeout
from clockwork.units import KIB, MILLISECOND, SECOND, Bytes, Nanos

BUFFER: Final[Bytes] = 64 * KIB
"""Number of bytes that are read at a time."""

MAX_COPIED: Final[Bytes] = 16 * KIB
"""Longest read in bytes that is copied before it is parsed, because bytes are parsed faster than a memoryview.

Also the largest output whose parts are joined before they are written.
"""

LAST_CHANCE: Final[Nanos] = 50 * MILLISECOND
"""Time in nanoseconds in which the server reads once more from a client that has not replied to a ping."""

BLOCKED_CHECK: Final = 0.01
"""Time in seconds between two checks whether responses still wait for windows, when the server ends."""

_LIMITS: Final = Limits(MAX_STREAMS, MAX_METADATA_BYTES)
_TEXT: Final = b"This port serves gRPC over HTTP/2. HTTP/1.1 is served on the port of --http.\n"
_NOT_HTTP_1: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d"
    b"\r\n\r\n%b" % (len(_TEXT), _TEXT)
)


class Port:
    """The connections of one server."""

    def __init__(
        self, serving: Serving, reception: Reception, client: Callable[[], LocalClient], keep_alive: Nanos, limit: int
    ) -> None:
        """Start without connections.

        Args:
            serving: serves the calls.
            reception: determines when bytes arrived.
            client: returns a new client of the controller.
            keep_alive: time without traffic after which the server pings a connection.
            limit: number of connections that may be open. Further connections are closed at once.
        """
        self.serving: Final = serving
        self.reception: Final = reception
        self.client: Final = client
        self.keep_alive: Final = keep_alive
        self.limit: Final = limit
        self.buffer: Final = memoryview(bytearray(BUFFER))
        """Receives the bytes of all connections. Each connection copies them before the next one reads."""
        self.connections: Final[set[GrpcConnection]] = set()
        self.is_closing = False

    async def close(self, grace: float) -> None:
        """End all connections. Calls may finish within ``grace`` seconds."""
        self.is_closing = True
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        for connection in self.connections:
            connection.leave()
        tasks = [call.task for connection in self.connections for call in connection.handler.calls() if call.task]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        while loop.time() < end and any(  # noqa: ASYNC110 - nothing announces that a client has opened its windows
            connection.is_blocked for connection in self.connections
        ):
            await asyncio.sleep(BLOCKED_CHECK)
        connections = list(self.connections)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.ended for connection in connections], timeout=grace)
        for connection in list(self.connections):
            connection.abort()


class GrpcConnection(asyncio.BufferedProtocol):
    """The connection of one client."""

    def __init__(self, port: Port) -> None:
        """Wait for a client of ``port``."""
        self._port = port
        self._reception = port.reception
        self._loop = asyncio.get_running_loop()
        self._client: LocalClient | None = None
        self._is_refused = False
        self._direct: memoryview | None = None  #: the memory of a message into which the next bytes are received
        self._is_shed = False  #: whether reading is paused because the server is overloaded
        self._is_reading = True
        self._read_at: Nanos = 0  #: time of the last read
        self._busy_at: Nanos = 0  #: time at which the connection last had a call, as far as `_check_silence` knows
        self._seen_stream = 0
        self._ping_at: Nanos | None = None  #: time of the server's ping that has no reply
        self._is_last_chance = False  #: whether the connection ends unless bytes arrive soon
        self._begun_arrived: Nanos = 0  #: when the incomplete frame began to arrive
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None  #: runs while responses wait for the client's windows
        self._reset_timer: asyncio.TimerHandle | None = None  #: runs while clients send more after their response
        self._waiting: Bytes = 0  #: number of bytes of responses that wait, as far as `Serving.waiting` knows
        self.ended: asyncio.Future[None] = self._loop.create_future()  #: done when the connection is closed

    @property
    def peer(self) -> str:
        """The client's address in gRPC's notation."""
        return self._peer

    @property
    def is_blocked(self) -> bool:
        """Whether parts of responses wait for the client's windows."""
        return self._http.is_blocked

    @property
    def client(self) -> LocalClient:
        """The client of the controller whose limits apply to the connection."""
        if self._client is None:
            self._client = self._port.client()
            if self._port.is_closing or self.ended.done():  # a request of a stream may begin after the connection's end
                self._client.close()
        return self._client

    # --- the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Wait for the client's first bytes, or close the connection if too many are open.

        The server sends nothing before, because a client of HTTP/1.1 would not understand it.
        """
        port = self._port
        self._transport = transport
        now = self._read_at = self._busy_at = self._reception.clock.now()
        host, at = (transport.get_extra_info("peername") or ("", 0))[:2]
        self._peer = f"ipv6:[{host}]:{at}" if ":" in host else f"ipv4:{host}:{at}"
        self._arrivals = FrameArrivals(self._reception.arrivals)
        self._write_timeout = WriteTimeout(transport, WRITE_TIMEOUT, transport.abort)
        self.handler = Handler(port.serving, self, self._flush)
        self._http = self.handler.http = Connection(self.handler, _LIMITS, now)
        if len(port.connections) >= port.limit or port.is_closing:
            self._is_refused = True
            transport.close()
            return
        port.connections.add(self)
        self._timer = self._loop.call_later(HANDSHAKE / SECOND, self._check_handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all calls."""
        self._port.connections.discard(self)
        self._write_timeout.end()
        for timer in (self._timer, self._stall_timer, self._reset_timer):
            if timer is not None:
                timer.cancel()
        self.handler.abandon()
        self._http.release()
        self._count_waiting(0)
        if self._client is not None:
            self._client.close()
        if not self.ended.done():
            self.ended.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory into which the next bytes are received."""
        self._direct = self._http.destination()
        return self._port.buffer if self._direct is None else self._direct

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        if self._is_refused or self._transport.is_closing():
            return
        reception, handler, http = self._reception, self.handler, self._http
        now = self._read_at = reception.clock.now()
        filled = nbytes == len(self._port.buffer if self._direct is None else self._direct)
        self._arrivals.read(self._transport, now, nbytes, filled=filled)
        arrived = self._arrivals.last
        handler.begin_read(now, arrived, self._begun_arrived if http.is_incomplete else arrived)
        try:
            if self._direct is not None:
                http.received_directly(nbytes)
            else:
                data = self._port.buffer[:nbytes]
                http.receive(bytes(data) if nbytes <= MAX_COPIED else data, now)
        except Http2Error as error:
            http.go_away(error.code, str(error))
            self.close()
            return
        except NotHttp2Error as error:
            self._refuse_other(error.begin)
            return
        handler.end_read()
        if http.is_incomplete:
            self._begun_arrived = arrived
        if http.out:
            self._flush()
        if http.has_excessive_data and self._reset_timer is None:
            self._await_resets()
        if handler.has_shed and reception.backpressure.is_needed and not self._is_shed:
            self._is_shed = True
            self._set_reading()
            reception.backpressure.pause(self)

    def _refuse_other(self, begin: bytes) -> None:
        """Close a connection whose client does not speak HTTP/2. A client of HTTP/1.1 gets an answer."""
        self._http.out.clear()
        if begin[:1].isalpha():
            self._transport.write(_NOT_HTTP_1)
        self.close()

    def read_again(self) -> None:
        """Resume reading after back-pressure."""
        self._is_shed = False
        self._set_reading()

    def pause_writing(self) -> None:
        """Read nothing from a client that does not read its responses, and disconnect it if this takes too long."""
        self.handler.writes_paused = True
        self._write_timeout.begin()
        self._set_reading()

    def resume_writing(self) -> None:
        """Continue after the client has read its responses."""
        if not self._transport.is_closing():
            self._write_timeout.end()
        self.handler.continue_writing()
        self._recount()
        self._set_reading()

    def _set_reading(self) -> None:
        wanted = not (self._is_shed or self.handler.writes_paused)
        if wanted == self._is_reading or self._transport.is_closing():
            return
        self._is_reading = wanted
        if wanted:
            self._arrivals.resumed()
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _flush(self) -> None:
        """Write what HTTP/2 has to send."""
        out = self._http.out
        if out and not self._transport.is_closing():
            if sum(map(len, out)) <= MAX_COPIED:
                self._transport.write(b"".join(out))
            else:
                self._transport.writelines(out)
        self._http.out = []
        if self._waiting or self._http.is_blocked or self.handler.writes_paused:
            self._recount()
        if self._http.is_blocked and self._stall_timer is None and not self._transport.is_closing():
            self._await_windows()

    def _recount(self) -> None:
        """Count the bytes that wait for the client's windows and, if the client reads too slowly, for the socket."""
        buffered = self._transport.get_write_buffer_size() if self.handler.writes_paused else 0
        self._count_waiting(self._http.waiting_bytes + buffered)

    def _count_waiting(self, nbytes: Bytes) -> None:
        self._port.serving.waiting += nbytes - self._waiting
        self._waiting = nbytes

    # --- the end -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Ask the client to leave, and fail the inference requests that wait for their response."""
        self._http.go_away(NO_ERROR, "the server is shutting down")
        self._flush()
        if self._client is not None:
            self._client.close()

    def close(self) -> None:
        """Close the connection when all bytes are sent, or when the client reads nothing for too long."""
        self._flush()
        self.handler.abandon()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._write_timeout.begin()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # --- timers ------------------------------------------------------------------------------------------------------

    def _check_handshake(self) -> None:
        if not self._http.is_settled:
            self.abort()
            return
        self._await_silence(self._port.keep_alive)

    def _await_silence(self, delay: Nanos) -> None:
        self._timer = self._loop.call_later(max(delay, 0) / SECOND, self._check_silence)

    def _check_silence(self) -> None:
        """Ping a silent client. Close the connection if the client does not reply, or has been without calls."""
        now, http = self._reception.clock.now(), self._http
        if http.streams or http.last_stream != self._seen_stream:
            self._busy_at, self._seen_stream = now, http.last_stream
        if now - self._busy_at >= IDLE:
            http.go_away(NO_ERROR, "the connection was idle")
            self.close()
            return
        if not self._is_reading:  # the client cannot show a sign of life
            self._read_at = now
        silence = now - self._read_at
        if self._ping_at is not None and self._read_at < self._ping_at:
            if self._is_last_chance:
                self.abort()
                return
            self._is_last_chance = True  # the loop runs timers before it reads, so a reply may be unread
            self._await_silence(LAST_CHANCE)
        elif silence >= self._port.keep_alive:
            self._ping_at, self._is_last_chance = now, False
            http.ping()
            self._flush()
            self._await_silence(HANDSHAKE)
        else:
            self._ping_at = None
            self._await_silence(self._port.keep_alive - silence)

    def _await_windows(self) -> None:
        self._stall_timer = self._loop.call_later(WRITE_TIMEOUT / CHECKS, self._check_windows)

    def _check_windows(self) -> None:
        """Reset streams whose client does not open its windows. While nothing is read, `WriteTimeout` checks."""
        self._stall_timer = None
        if self._is_reading:
            self._http.reset_stalled(CHECKS, MIN_PROGRESS)
            self._flush()
        elif self._http.is_blocked:
            self._await_windows()

    def _await_resets(self) -> None:
        self._reset_timer = self._loop.call_later(RESET_DELAY, self._reset_excessive)

    def _reset_excessive(self) -> None:
        self._reset_timer = None
        self._http.reset_excessive()
        self._flush()
        if self._http.has_excessive_data and not self._transport.is_closing():
            self._await_resets()
