"""One connection: frames in and out, heartbeats, back-pressure, and one clear reason when it ends.

Rules of the file: nothing is decided about messages; those of the link itself (`clockwork.messages.link`) are answered
here, all others go to ``on_message``. ``on_closed`` is called exactly once per connection that was established, always
from the event loop and never from within `send` or `close`.

Frames that are sent within one turn of the loop leave in one system call. A peer that does not read lets them pile up
to ``max_outgoing_bytes``, and is then dropped: the host's memory is bounded, and nobody else waits for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from msgspec import Struct

from clockwork.clock import Clock, MonotonicClock
from clockwork.errors import ConnectionLostError, ProtocolError
from clockwork.messages.link import Goodbye, Hello, Ping, Pong, Welcome
from clockwork.units import KIB, MIB, SECOND, Bytes, Nanos
from clockwork.wire.clock_offset import ClockOffset
from clockwork.wire.codec import Decode, encode
from clockwork.wire.frame import MAX_FRAME_BYTES, FrameReader, Sendable, encode_frame, preamble

FLUSH_BYTES: Final[Bytes] = 64 * KIB
"""What is sent at once, rather than at the end of the loop's turn."""

LINGER: Final[Nanos] = 2 * SECOND
"""How long a connection that is being closed waits for its last bytes to be taken."""


class LinkConfig(Struct, frozen=True):
    """How long a peer may be silent, and how much it may cost; times in nanoseconds.

    ``hello_timeout``: from the connection to its Hello or Welcome. ``heartbeat_interval``: between Pings.
    ``heartbeat_timeout``: without a single byte from the peer; many times the interval, for a loaded host stalls.
    """

    hello_timeout: Nanos = 5 * SECOND
    heartbeat_interval: Nanos = SECOND // 2
    heartbeat_timeout: Nanos = 10 * SECOND
    max_frame_bytes: Bytes = MAX_FRAME_BYTES
    max_outgoing_bytes: Bytes = 256 * MIB


DEFAULT_LINK: Final = LinkConfig()


class Connection(asyncio.BufferedProtocol):
    """See the module. Made by `clockwork.net.server` and `clockwork.net.dial`."""

    def __init__(
        self,
        *,
        decode: Decode[Any],
        on_message: Callable[["Connection", Any, Any], None],
        on_closed: Callable[["Connection", str], None],
        on_hello: Callable[["Connection", Hello], str] | None = None,
        on_ready: Callable[["Connection"], None] | None = None,
        hello: Hello | None = None,
        config: LinkConfig = DEFAULT_LINK,
        clock: Clock | None = None,
    ) -> None:
        """Who dialled has a ``hello`` to say; who accepted has ``on_hello``, which returns why not, or nothing.

        ``on_ready`` is called once the greeting is over, before any ``on_message``.
        """
        self._decode = decode
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_hello = on_hello
        self._on_ready = on_ready
        self._hello = hello
        self._config = config
        self._clock: Clock = clock or MonotonicClock()
        self._reader = FrameReader(expect_preamble=hello is None, max_frame_bytes=config.max_frame_bytes)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[Any] = []
        self._outgoing_bytes = 0
        self._flush_scheduled = False
        self._max_outgoing_frame = config.max_frame_bytes
        self._timer: asyncio.TimerHandle | None = None
        self._heard: Nanos = 0
        self._reason = ""
        self.ready: asyncio.Future[None] = self._loop.create_future()  #: the greeting is over
        self.closed: asyncio.Future[str] = self._loop.create_future()  #: why it ended
        self.peer_name = ""  #: what the peer's Hello says
        self.clock_offset = ClockOffset()

    @property
    def established(self) -> bool:
        """Whether the greeting was successful."""
        return self.ready.done() and not self.ready.cancelled() and self.ready.exception() is None

    @property
    def closing(self) -> bool:
        """Whether it has ended, or is about to."""
        return bool(self._reason)

    def send(self, message: Any, payload: Sequence[Sendable] = ()) -> None:
        """Send a message; one that cannot be sent any more is dropped, and ``on_closed`` tells.

        Raises:
            InvalidRequestError: it does not fit into a frame.
        """
        if self._reason or self._transport is None:
            return
        for buffer in encode_frame(encode(message), payload, max_frame_bytes=self._max_outgoing_frame):
            self._outgoing.append(buffer)
            self._outgoing_bytes += len(buffer)
        if self._outgoing_bytes >= FLUSH_BYTES:
            self._flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def close(self, reason: str) -> None:
        """Say goodbye and why, and close when that is sent; a second call changes nothing."""
        if self._reason or self._transport is None:
            return
        self.send(Goodbye(reason))
        self._end(reason)

    # --- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, if it is our turn."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport = transport
        self._heard = self._clock.now()
        self._timer = self._loop.call_later(self._config.hello_timeout / SECOND, self._no_greeting)
        if self._hello is not None:
            transport.write(preamble())
            self.send(self._hello)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive to."""
        return self._reader.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        if self._reason:
            return
        self._heard = self._clock.now()
        try:
            for header, payload in self._reader.buffer_updated(nbytes):
                self._dispatch(self._decode(header), payload)
                if self.closing:
                    return
        except ProtocolError as error:
            self.close(str(error))

    def eof_received(self) -> bool:
        """The peer will send no more."""
        missing = self._reader.waiting_for
        self._end(f"the peer closed the connection while it still owed {missing}" if missing else "the peer closed it")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """It is over, for whatever reason."""
        reason = self._reason or (f"the connection broke: {error}" if error else "the peer closed it")
        self._reason = reason
        self._transport = None
        self._outgoing.clear()
        if self._timer is not None:
            self._timer.cancel()
        was_established = self.established
        if not self.ready.done():
            self.ready.set_exception(ConnectionLostError(reason))
            self.ready.exception()  # whoever accepted does not await it
        if not self.closed.done():
            self.closed.set_result(reason)
        if was_established:
            self._on_closed(self, reason)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _dispatch(self, message: Any, payload: Any) -> None:
        kind = type(message)
        if kind is Ping:
            now = self._clock.now()
            self.send(Pong(message.sent, now, now))
        elif kind is Pong:
            self.clock_offset.add(
                ping_sent=message.ping_sent, received=message.received, pong_sent=message.sent, now=self._clock.now()
            )
        elif kind is Goodbye:
            self._end(f"the peer said: {message.reason}")
        elif kind is Hello or kind is Welcome:
            self._greeted(message)
        elif self.established:
            self._on_message(self, message, payload)
        else:
            raise ProtocolError(f"a {kind.__name__} came before the greeting")

    def _greeted(self, message: Hello | Welcome) -> None:
        if self.established or isinstance(message, Hello) == (self._hello is not None):
            raise ProtocolError(f"a {type(message).__name__} was not expected")
        if isinstance(message, Hello):
            assert self._on_hello is not None
            refusal = self._on_hello(self, message)
            if refusal:
                self.close(refusal)
                return
            self.peer_name = message.name
        else:
            self._max_outgoing_frame = min(self._max_outgoing_frame, message.max_frame_bytes)
        assert self._timer is not None
        self._timer.cancel()
        self.ready.set_result(None)
        if self._on_ready is not None:
            self._on_ready(self)
        self._beat()

    def _beat(self) -> None:
        """Look whether the peer lives, and ask it to show."""
        now = self._clock.now()
        if now - self._heard > self._config.heartbeat_timeout:
            self._end(f"nothing was heard from the peer for {(now - self._heard) / SECOND:.1f} s", abort=True)
            return
        self.send(Ping(now))
        self._timer = self._loop.call_later(self._config.heartbeat_interval / SECOND, self._beat)

    def _no_greeting(self) -> None:
        self.close(f"no greeting came within {self._config.hello_timeout / SECOND:.1f} s")

    def _flush(self) -> None:
        self._flush_scheduled = False
        if not self._outgoing or self._transport is None:
            return
        if len(self._outgoing) == 1:
            self._transport.write(self._outgoing[0])
        else:
            self._transport.writelines(self._outgoing)
        self._outgoing = []
        self._outgoing_bytes = 0
        waiting = self._transport.get_write_buffer_size()
        if waiting > self._config.max_outgoing_bytes:
            self._reason = self._reason or f"the peer does not read: {waiting} bytes wait for it"
            self._transport.abort()

    def _end(self, reason: str, *, abort: bool = False) -> None:
        if self._reason or self._transport is None:
            return
        self._reason = reason
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        if abort:
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(LINGER / SECOND, self._transport.abort)
            self._transport.close()
