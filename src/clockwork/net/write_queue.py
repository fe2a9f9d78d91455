"""Collects the frames of one turn of the event loop, and writes them in one system call.

Buffers are sent in the order in which they are queued. At most ``max_bytes`` bytes and one additional frame can wait.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from clockwork.net.outbox import Outbox
from clockwork.units import KIB, Bytes, show_bytes

FLUSH_BYTES: Final[Bytes] = 64 * KIB
"""If this many bytes are queued, they are written at once, because collecting more bytes would save no time."""


class WriteQueue:
    """The frames that wait to be sent on one connection."""

    __slots__ = ("_bytes", "_corked", "_flush_is_due", "_max_bytes", "_on_overflow", "_outbox", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        max_bytes: Bytes,
        on_overflow: Callable[[str], None],
        outbox: Outbox | None = None,
    ) -> None:
        """Create an empty queue.

        If more than ``max_bytes`` bytes already wait when a frame is queued, ``on_overflow`` is called with the reason.
        The new frame itself does not count, so a frame may be longer than ``max_bytes``. If ``outbox`` is None, the
        queue has an outbox of its own.
        """
        self._transport = transport
        self._max_bytes = max_bytes
        self._on_overflow = on_overflow
        self._outbox = outbox or Outbox(asyncio.get_running_loop())
        self._corked: list[bytes | memoryview] = []
        self._bytes: Bytes = 0
        self._flush_is_due = False

    @property
    def waiting_bytes(self) -> Bytes:
        """Number of bytes that wait in this process. More bytes may wait in the kernel."""
        return self._bytes + self._transport.get_write_buffer_size()

    def put(self, buffers: list[bytes | memoryview]) -> None:
        """Queue buffers to be sent. New buffers are sent after the buffers that are already in the queue."""
        self._corked += buffers
        self._bytes += len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if self._bytes >= FLUSH_BYTES:
            self.flush()
        elif not self._flush_is_due:
            self._flush_is_due = True
            self._outbox.add(self)

    def flush(self) -> None:
        """Write all queued buffers now."""
        corked, size = self._corked, self._bytes
        if not corked:
            return
        self._corked, self._bytes = [], 0
        waiting = self._transport.get_write_buffer_size()
        if waiting > self._max_bytes:
            self._on_overflow(f"the peer does not read: {show_bytes(waiting)} wait for it")
            return
        if len(corked) == 1:
            self._transport.write(corked[0])
        elif size < FLUSH_BYTES:
            self._transport.write(b"".join(corked))  # a small copy is faster than writing several buffers
        else:
            self._transport.writelines(corked)

    def drop(self) -> None:
        """Drop all queued buffers. The connection calls this method when it has ended."""
        self._corked, self._bytes = [], 0

    def flush_due(self) -> None:
        """Write all queued buffers. Only the outbox calls this method."""
        self._flush_is_due = False
        self.flush()
