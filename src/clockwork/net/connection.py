"""A TCP connection that sends and receives messages.

A connection has these states:

- GREETING: the peers exchange Hello and Welcome. Any other message is an error.
- OPEN: messages are passed to ``on_message``, Pings are answered, and the silence of the peer is measured.
- CLOSING: one side has sent a Goodbye with the reason. Bytes that still arrive are discarded. The accepting side reads
  these bytes before it closes the socket. If the bytes were not read, TCP would send a reset, and the peer would not
  receive the Goodbye.
- CLOSED: the connection has ended.

Whatever a peer sends, the worst effect is the end of its own connection. ``on_closed`` is called exactly once for each
connection that has an owner. An accepted connection has an owner after ``on_ready``, and a dialled connection after
`hand_over`. ``on_closed`` gets the reason as text. The callback is called from the event loop, never from within `send`
or `close`. Callbacks must not block. If a callback raises `ProtocolError`, the peer is disconnected.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, cast

from clockwork.clock import Clock, MonotonicClock
from clockwork.errors import ConnectionLostError, OtherVersionError, ProtocolError
from clockwork.messages.link import PROTOCOL_VERSION, Goodbye, Hello, LinkMessage, Ping, Pong, Welcome
from clockwork.net.address import Address
from clockwork.net.config import DEFAULT_LINK, LinkConfig
from clockwork.net.frame_arrivals import FrameArrivals
from clockwork.net.frame_queue import ENDED, MESSAGE, REFUSAL, FrameQueue
from clockwork.net.heartbeat import Heartbeat
from clockwork.net.write_queue import WriteQueue
from clockwork.net.write_timeout import MIN_PROGRESS, WriteTimeout
from clockwork.units import KIB, Bytes, Nanos, as_seconds, show_bytes, show_duration
from clockwork.version import __version__
from clockwork.wire.clock_offset import ClockOffset
from clockwork.wire.codec import Decode, encode
from clockwork.wire.frame import FRAME_BYTES_CEILING, Frame, FrameReader, Received, Sendable, encode_frame, preamble

__all__ = ["DEFAULT_LINK", "Callbacks", "Connection", "ConnectionState", "LinkConfig"]

MAX_GREETING_FRAME_BYTES: Final[Bytes] = 64 * KIB
"""Longest frame that is accepted during the greeting."""

MAX_NAME_CHARACTERS: Final = 200
"""Longest name, role and software that are accepted in a Hello.

These texts are used as keys of tables, in the status and in the log.
"""

_LINK_TYPES: Final = frozenset({Hello, Welcome, Goodbye, Ping, Pong})
_log = logging.getLogger("clockwork.link")
_waste = memoryview(bytearray(64 * KIB))  # bytes that arrive after the Goodbye are received into this memory


class ConnectionState(Enum):
    """The state of a connection; the module's docstring describes the states."""

    GREETING = "greeting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


def _welcome_all(*_: object) -> str:
    return ""


def _ignore(*_: object) -> None:
    pass


def _accept_all(*_: object) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Callbacks:
    """The functions that a connection calls.

    - ``on_made``, ``on_hello``: called only for accepted connections. The functions return the reason why the peer is
      refused, or an empty text.
    - ``on_ready``: called when the greeting has ended, before the first ``on_message``.
    - ``on_writable``: called whenever `Connection.writable` changes.
    - ``on_silent``: called with True when nothing was received for ``LinkConfig.silent_after``, and with False when
      bytes are received again.
    - ``refuses``: called before ``on_message``. Returns whether it has refused the message. Then ``on_message`` is not
      called, and the message counts little towards the messages of a turn.
    """

    on_message: Callable[["Connection", Any, Any], None]
    on_closed: Callable[["Connection", str], None]
    on_made: Callable[["Connection"], str] = _welcome_all
    on_hello: Callable[["Connection", Hello], str] = _welcome_all
    on_ready: Callable[["Connection"], None] = _ignore
    on_writable: Callable[["Connection", bool], None] = _ignore
    on_silent: Callable[["Connection", bool], None] = _ignore
    refuses: Callable[["Connection", Any], bool] = _accept_all


class Connection(asyncio.BufferedProtocol):
    """A TCP connection. `clockwork.net.server` and `clockwork.net.dial` create connections."""

    _transport: asyncio.Transport  # `connection_made` sets the next attributes before the connection is used
    _write_queue: WriteQueue
    _write_timeout: WriteTimeout

    def __init__(
        self,
        decode: Decode[Any],
        callbacks: Callbacks,
        *,
        hello: Hello | None = None,
        config: LinkConfig = DEFAULT_LINK,
        clock: Clock | None = None,
    ) -> None:
        """Create a connection that asyncio will open.

        ``hello`` is the greeting that a dialled connection sends. ``hello`` is None for an accepted connection, which
        waits for the peer's greeting.
        """
        self._loop = asyncio.get_running_loop()
        self.state = ConnectionState.GREETING
        self.ready: asyncio.Future[None] = self._loop.create_future()  #: done when the greeting has ended
        self.closed: asyncio.Future[str] = self._loop.create_future()  #: the reason why the connection ended
        self.peer = "an unknown peer"  #: name and address of the peer, for messages and logs
        self.peer_name = ""  #: name from the peer's Hello
        self.peer_role = ""  #: role from the peer's Hello
        self.peer_accepts: tuple[str, ...] = ()  #: further actions that the peer can execute, from its Hello
        self.peer_software = ""  #: name and version of the software from the peer's Hello
        self.received_at: Nanos = 0  #: time at which the message that is being handled was read
        self.arrived_at: Nanos = 0  #: earliest time at which the first byte of this message may have arrived
        self._arrivals: FrameArrivals | None = None
        self.writable = True  #: False while more than ``high_water_bytes`` wait to be sent
        self._decode = decode
        self._callbacks = callbacks
        self._hello = hello
        self._config = config
        self._clock: Clock = clock or MonotonicClock()
        self._reader = FrameReader(expect_preamble=hello is None, max_frame_bytes=MAX_GREETING_FRAME_BYTES)
        self._frames = FrameQueue(self._handle, self._set_reading)
        self._offered = 0  # length of the buffer into which asyncio receives
        self._paused = self._resting = False  # whether reading was paused by the host, or by the frame queue
        self._max_frame_bytes = config.max_frame_bytes
        self._handed_over = False
        self._held: list[tuple[Any, Received]] | None = []  # messages that wait for `hand_over`; None after that call
        self._reason = ""
        self._other_version = False  # whether the peer closed the connection because of its version
        self._timer: asyncio.TimerHandle | None = None  # time limit for the greeting, and later for closing
        self._heartbeat = Heartbeat(
            interval=config.heartbeat_interval,
            timeout=config.heartbeat_timeout,
            measure_clock=config.measure_clock,
            clock=self._clock,
            send=self._send_now,
            on_silence=self.abort,
            silent_after=config.silent_after,
            on_silent=partial(callbacks.on_silent, self),
        )

    @property
    def established(self) -> bool:
        """Whether the greeting was successful."""
        return self.ready.done() and not self.ready.cancelled() and self.ready.exception() is None

    @property
    def closing(self) -> bool:
        """Whether the connection is closing or closed."""
        return self.state is ConnectionState.CLOSING or self.state is ConnectionState.CLOSED

    @property
    def clock_offset(self) -> ClockOffset:
        """The offset of the peer's clock. The offset is only estimated if ``LinkConfig.measure_clock`` is set."""
        return self._heartbeat.clock_offset

    @property
    def outgoing_bytes(self) -> Bytes:
        """Number of bytes that wait in this process to be sent. More bytes may wait in the kernel."""
        return 0 if self.state is ConnectionState.CLOSED else self._write_queue.waiting_bytes

    def send(self, message: Any, payload: Sequence[Sendable] = ()) -> None:
        """Send a message. If the connection is closing, the message is dropped.

        The buffers of a large payload are not copied. The buffers must not change until they are sent.

        Raises:
            InvalidRequestError: the message does not fit into a frame.
        """
        if self.state is ConnectionState.OPEN:
            self._write_queue.put(encode_frame(encode(message), payload, max_frame_bytes=self._max_frame_bytes))

    def send_frame(self, frame: bytes) -> None:
        """Send an encoded frame that is within all limits. If the connection is closing, the frame is dropped."""
        if self.state is ConnectionState.OPEN:
            self._write_queue.put([frame])

    def close(self, reason: str) -> None:
        """Send a Goodbye with the reason, and close the connection when the peer has received it.

        A second call does nothing.
        """
        if not self.closing:
            self._send_now(Goodbye(reason))
            self._close(reason)

    def _close(self, reason: str) -> None:
        """Close the connection after a Goodbye was sent."""
        if not self._leave(reason):
            return
        if self._hello is not None:  # the dialling side does not wait, because it may stop its loop soon
            self._transport.close()
            return
        self._transport.resume_reading()
        try:
            self._transport.write_eof()
        except NotImplementedError:  # TLS cannot close only one direction of a connection
            self._transport.close()
        except OSError:  # the peer has already disconnected
            self._transport.abort()

    def abort(self, reason: str) -> None:
        """Try to send a Goodbye, and close the connection without waiting for the peer."""
        if not self.closing and not self._write_queue.waiting_bytes:
            self._send_now(Goodbye(reason))
        self._leave(reason)
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stop receiving until `resume_reading`. Messages that were already received are still passed on."""
        self._paused = True
        self._read_or_not()

    def resume_reading(self) -> None:
        """Receive again after `pause_reading`."""
        self._paused = False
        self._read_or_not()

    def hand_over(self) -> None:
        """Pass messages to the owner of a dialled connection, beginning with the next turn of the event loop."""
        self._handed_over = True
        self._loop.call_soon(self._deliver)

    # --- methods that asyncio calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set up the connection. The dialling side also sends its greeting."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass of asyncio's
        if self._config.arrivals is not None:
            self._arrivals = FrameArrivals(self._config.arrivals)
        self._transport.set_write_buffer_limits(self._config.high_water_bytes)
        config = self._config
        self._write_queue = WriteQueue(self._transport, config.max_outgoing_bytes, self.abort, config.outbox)
        limit = self._config.write_timeout
        stalled = (
            f"the peer read less than {show_bytes(MIN_PROGRESS)} in {show_duration(limit)} although more waits for it"
        )
        self._write_timeout = WriteTimeout(self._transport, as_seconds(limit), partial(self.abort, stalled))
        self.peer = _show(transport.get_extra_info("peername"))
        limit = self._config.hello_timeout
        self._arm(limit, lambda: self._refuse_invalid(f"no greeting arrived within {show_duration(limit)}"))
        if self._hello is not None:
            self._write_queue.put([preamble()])
            self._send_now(self._hello)
        elif refusal := self._callbacks.on_made(self):
            self._refuse(refusal)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer into which the next bytes are received."""
        if self.state is ConnectionState.CLOSING:
            return _waste
        buffer = self._reader.get_buffer(sizehint)
        self._offered = len(buffer)
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle bytes that were received into the buffer."""
        if self.closing:
            return
        self.received_at = self._clock.now()
        arrivals = self._arrivals
        if arrivals is not None:
            arrivals.read(self._transport, self.received_at, nbytes, filled=nbytes == self._offered)
        self._heartbeat.heard = True
        try:
            frames = self._reader.buffer_updated(nbytes)
        except ProtocolError as error:
            self._disconnect(error)
        else:
            if arrivals is not None:
                arrivals.parsed(frames, begun=self._reader.has_begun)
            self._frames.take(frames, more=nbytes == self._offered)

    def eof_received(self) -> None:
        """Handle the end of the peer's stream. The transport then closes itself."""
        missing = self._reader.waiting_for
        if not missing:
            self._leave("the peer closed the connection")
        elif self._leave(f"the peer closed the connection in the middle of a frame: {missing} are missing"):
            _log.warning("%s closed the connection in the middle of a frame: %s are missing", self.peer, missing)

    def pause_writing(self) -> None:
        """Called by asyncio when more than ``high_water_bytes`` wait to be sent."""
        self._write_timeout.begin()
        self._set_writable(False)

    def resume_writing(self) -> None:
        """Called by asyncio when only few bytes wait to be sent."""
        self._write_timeout.end()
        self._set_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the connection has ended."""
        self._leave(
            f"the connection broke: {getattr(exc, 'strerror', None) or exc}"
            if exc
            else "the peer closed the connection"
        )
        self.state = ConnectionState.CLOSED
        self._arm(None)
        self._write_timeout.end()
        self._write_queue.drop()
        _log.debug("%s disconnected: %s", self.peer, self._reason)
        if not self.ready.done():
            error = OtherVersionError if self._other_version else ConnectionLostError
            self.ready.set_exception(error(self._reason))
            self.ready.exception()  # prevents a log line about an exception that was never retrieved
        if not self.closed.done():
            self.closed.set_result(self._reason)
        if self._handed_over:
            self._callbacks.on_closed(self, self._reason)

    # --- private methods ---------------------------------------------------------------------------------------------

    def _handle(self, frame: Frame) -> float:
        """Handle one frame. See `FrameQueue` for the result."""
        header, payload = frame
        if self._arrivals is not None:
            self.arrived_at = self._arrivals.of(frame)
        try:
            message = self._decode(header)
            is_refused = self._held is None and self._callbacks.refuses(self, message)
            if not is_refused:
                self._dispatch(message, payload)
        except ProtocolError as error:
            self._disconnect(error)
            return ENDED
        if self.state is not ConnectionState.OPEN:
            return ENDED
        return REFUSAL if is_refused else MESSAGE

    def _set_reading(self, reading: bool) -> None:
        self._resting = not reading
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self.state is not ConnectionState.OPEN:
            return
        self._heartbeat.suspended = self._paused or self._resting
        if self._heartbeat.suspended:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            if self._arrivals is not None:
                self._arrivals.resumed()

    def _dispatch(self, message: Any, payload: Received) -> None:
        if type(message) in _LINK_TYPES:
            self._link(message)
        elif self._held is None:
            self._callbacks.on_message(self, message, payload)
        elif self.state is ConnectionState.OPEN:
            self._held.append((message, payload))
        else:
            raise ProtocolError(f"{type(message).__name__} arrived before the greeting")

    def _deliver(self) -> None:
        held, self._held = self._held or [], None
        try:
            for message, payload in held:
                if not self.closing:
                    self._callbacks.on_message(self, message, payload)
        except ProtocolError as error:
            self._disconnect(error)

    def _link(self, message: LinkMessage) -> None:
        if isinstance(message, Goodbye):
            self._other_version = message.other_version
            self._leave(f"the peer closed the connection: {message.reason}")
            self._transport.close()
        elif self.state is ConnectionState.GREETING and isinstance(message, Hello if self._hello is None else Welcome):
            self._greet(message)
        elif self.state is ConnectionState.OPEN and isinstance(message, Ping):
            self._send_now(Pong(message.sent, self.received_at, self._clock.now()))
        elif self.state is ConnectionState.OPEN and isinstance(message, Pong):
            self._heartbeat.pong(message, self.received_at)
        else:
            raise ProtocolError(f"{type(message).__name__} is not allowed now")

    def _greet(self, message: LinkMessage) -> None:
        if isinstance(message, Hello):
            if max(map(len, (message.name, message.role, message.software))) > MAX_NAME_CHARACTERS:
                raise ProtocolError(
                    f"name, role or software is too long; the limit is {MAX_NAME_CHARACTERS} characters"
                )
            if self._reader.peer_version != PROTOCOL_VERSION:
                self._refuse_version(f"{message.role} {message.name!r} ({message.software})")
                return
            if refusal := self._callbacks.on_hello(self, message):
                self._refuse(refusal)
                return
            self._send_now(Welcome(f"clockwork {__version__}", self._config.max_frame_bytes))
            self.peer_name, self.peer_role = message.name, message.role
            self.peer_software, self.peer_accepts = message.software, message.accepts
            self.peer = f"{message.role} {message.name!r} at {self.peer}"
            self._handed_over, self._held = True, None
        elif isinstance(message, Welcome):
            if not 0 < message.max_frame_bytes <= FRAME_BYTES_CEILING:
                raise ProtocolError(
                    f"the peer's frame limit is {message.max_frame_bytes} bytes; it must be 1 to {FRAME_BYTES_CEILING}"
                )
            self._max_frame_bytes = message.max_frame_bytes
        self.state = ConnectionState.OPEN
        self._reader.max_frame_bytes, self._reader.allocate = self._max_frame_bytes, self._config.allocate
        self._arm(None)
        _log.debug("%s is connected", self.peer)
        if not self.ready.done():  # if the dialling side has given up, the future is already cancelled
            self.ready.set_result(None)
        self._heartbeat.start()
        self._callbacks.on_ready(self)

    def _send_now(self, message: LinkMessage) -> None:
        """Send a message without delay, so that the time in it is accurate."""
        self._write_queue.put(encode_frame(encode(message)))
        self._write_queue.flush()

    def _refuse(self, why: str) -> None:
        _log.warning("refused %s: %s", self.peer, why)
        self.close(why)

    def _refuse_version(self, who: str) -> None:
        """Refuse a peer that uses another version of the protocol, because messages would be misread."""
        why = (
            f"{who} uses version {self._reader.peer_version} of the protocol; this side (clockwork {__version__}) uses "
            f"version {PROTOCOL_VERSION}: install the same version of Clockwork on both sides"
        )
        _log.warning("refused %s: %s", self.peer, why)
        self._send_now(Goodbye(why, other_version=True))
        self._close(why)

    def _disconnect(self, error: ProtocolError) -> None:
        _log.warning("%s broke the protocol: %s", self.peer, error)
        self._refuse_invalid(str(error))

    def _refuse_invalid(self, why: str) -> None:
        """Close a connection whose peer sent something invalid, or nothing.

        A peer of another version cannot help it, so its version is reported as the reason.
        """
        if self.state is ConnectionState.GREETING and self._reader.peer_version != PROTOCOL_VERSION:
            self._refuse_version("the peer")
        else:
            self.close(why)

    def _leave(self, reason: str) -> bool:
        """Begin to close, and return True. Return False if the connection is already closing."""
        if self.closing:
            return False
        self.state = ConnectionState.CLOSING
        self._reason = reason
        self._heartbeat.stop()
        self._frames.drop()
        self._arm(self._config.linger, self._transport.abort)
        return True

    def _set_writable(self, writable: bool) -> None:
        self.writable = writable
        if self.state is ConnectionState.OPEN:
            self._callbacks.on_writable(self, writable)

    def _arm(self, after: Nanos | None, then: Callable[[], object] = lambda: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if after is None else self._loop.call_later(as_seconds(after), then)


def _show(peername: Any) -> str:
    return str(Address(*peername[:2])) if isinstance(peername, tuple) else "an unknown peer"
