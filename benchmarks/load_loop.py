"""The loop of a load generator. The loop sends requests when they are due, and receives the responses.

The loop runs in one thread, without asyncio. A request over the native protocol takes only a few microseconds. The
schedule does not depend on the server. If the generator itself is more than `MAX_BEHIND` late, it does not send the
requests that it missed, and the results contain fewer offered requests.
"""

import errno
import gc
import select
import socket
import time
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
from load_ledger import EXPIRED, SENT, Ledger

from clockwork.units import MILLISECOND, SECOND

MAX_BEHIND = 10 * MILLISECOND
"""Longest lateness of the generator. A request that it handles later is not offered."""

MIN_STATED = MILLISECOND
"""Shortest remaining time with which a client sends a request.

If less time remains, the request expires in the client.
"""

TURN = 100_000
"""Shortest time in ns between two turns of the loop. At high rates, requests are therefore sent in batches."""

MAX_WAIT = 20 * MILLISECOND
"""Longest sleep of the loop."""

RECEIVE_BYTES = 1 << 18
MAX_PIECES = 64  # number of buffers in one call of sendmsg

MAX_RECONNECTS = 10_000
"""Largest number of connections that one load may open in place of connections that the server closed."""


class Link:
    """A non-blocking TCP connection, and a queue of bytes that have not been sent."""

    def __init__(self, wire: "Wire") -> None:
        self.wire = wire
        self.connected = False
        self.closed = False
        self._queue: deque[Any] = deque()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self._socket.fileno()
        failed = self._socket.connect_ex(wire.address)
        if failed not in (0, errno.EINPROGRESS):
            raise OSError(failed, f"cannot connect to {wire.address}")
        self._interest = select.EPOLLIN | select.EPOLLOUT
        wire.poller.register(self.fd, self._interest)

    @property
    def idle(self) -> bool:
        """Return whether all bytes have been sent."""
        return not self._queue

    def write(self, *parts: Any) -> None:
        """Send as many bytes as the socket accepts now, and the rest later."""
        if self.connected and not self._queue and len(parts) == 1:
            try:
                sent = self._socket.send(parts[0])
            except OSError:
                sent = 0  # flush() reports the error
            if sent == len(parts[0]):
                return
            parts = (memoryview(parts[0])[sent:],)
        self._queue.extend(parts)
        if self.connected:
            self.flush()

    def flush(self) -> None:
        """Send as many waiting bytes as the socket accepts."""
        queue = self._queue
        try:
            while queue:
                sent = self._socket.sendmsg(islice(queue, MAX_PIECES))
                while queue and sent >= len(queue[0]):
                    sent -= len(queue.popleft())
                if sent:
                    queue[0] = memoryview(queue[0])[sent:]
        except BlockingIOError:
            pass
        except OSError as error:
            self.lose(str(error))
            return
        self._watch(select.EPOLLIN | select.EPOLLOUT if queue else select.EPOLLIN)

    def ready(self, events: int) -> None:
        """Handle events of the poller."""
        if events & select.EPOLLOUT and not self.closed:
            if not self.connected:
                if failed := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self.lose(f"cannot connect: {errno.errorcode.get(failed, failed)}")
                    return
                self.connected = True
            self.flush()
            if not self.closed:
                self.on_writable()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self.closed:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(str(error))
            return
        if data:
            self.on_data(data, time.monotonic_ns())
        else:
            self.lose("the server closed the connection")

    def lose(self, reason: str) -> None:
        """End the connection. The connection's open requests fail with ``reason``."""
        if not self.closed:
            self.close()
            now = time.monotonic_ns()
            for seq in self.unanswered():
                self.wire.ledger.fail(seq, reason, now)
            self.wire.lost(self)

    def close(self) -> None:
        """Close the socket."""
        if not self.closed:
            self.closed = True
            self.wire.poller.unregister(self.fd)
            self._socket.close()
            self._queue.clear()

    def _watch(self, interest: int) -> None:
        if interest != self._interest:
            self._interest = interest
            self.wire.poller.modify(self.fd, interest)

    # Subclasses implement the following methods for a protocol.

    def on_writable(self) -> None:
        """Handle the event that the socket accepts more bytes."""

    def on_data(self, data: bytes, now: int) -> None:
        """Handle bytes that were received at ``now``."""
        raise NotImplementedError

    def unanswered(self) -> list[int]:
        """Return the sequence numbers of the open requests."""
        raise NotImplementedError


class Wire:
    """The connections of a load over one protocol, and the requests that wait in the client."""

    def __init__(self, address: str, ledger: Ledger) -> None:
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.ledger = ledger
        self.poller = select.epoll()
        self.backlog: deque[int] = deque()
        self.links: dict[int, Link] = {}
        self.reconnects = 0

    def add(self, link: Link) -> None:
        """Add a new connection to the load."""
        self.links[link.fd] = link

    def lost(self, link: Any) -> None:
        """Remove a connection that has ended."""
        self.links.pop(link.fd, None)
        self.reconnects += 1

    def take(self, limit: int, now: int) -> list[int]:
        """Remove up to ``limit`` requests from the backlog, and return them. Requests without time left expire."""
        ledger, backlog = self.ledger, self.backlog
        taken: list[int] = []
        while backlog and len(taken) < limit:
            seq = backlog.popleft()
            if ledger.stated(seq, now) < MIN_STATED:
                ledger.finish(seq, EXPIRED, now)
            else:
                ledger.outcome[seq] = SENT
                taken.append(seq)
        return taken

    def expire(self, now: int) -> None:
        """Finish the requests at the front of the backlog whose remaining time is too short."""
        ledger, backlog = self.ledger, self.backlog
        while backlog and ledger.stated(backlog[0], now) < MIN_STATED:
            ledger.finish(backlog.popleft(), EXPIRED, now)

    def send(self, now: int) -> None:
        """Send as many requests of the backlog as the connections accept."""
        raise NotImplementedError

    def turn(self, wait: int) -> None:
        """Wait at most ``wait`` ns for events, and handle them."""
        select.select([self.poller], [], [], max(0, wait) / SECOND)  # epoll's timeout is in whole milliseconds
        for fd, events in self.poller.poll(0, 512):
            if (link := self.links.get(fd)) is not None:
                link.ready(events)

    def close(self) -> None:
        """Close all connections."""
        for link in self.links.values():
            link.close()
        self.poller.close()


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def open_loop(wire: Wire, schedule: np.ndarray, patience: int) -> int:
    """Offer each request of the ledger at its due time, and return the time of the start.

    ``schedule`` contains the due times in ns after the start. The loop ends when every request is finished, or
    ``patience`` ns after the last due time.
    """
    ledger = wire.ledger
    with _without_collector():
        start = time.monotonic_ns() + 5 * MILLISECOND
        ledger.due = due = array("q", (schedule + start).tobytes())
        count, taken = len(due), 0
        end = (due[count - 1] if count else start) + patience
        while (now := time.monotonic_ns()) < end and (taken < count or ledger.open):
            upto = bisect_right(due, now, taken, count)
            if upto > taken:
                begin = bisect_right(due, now - MAX_BEHIND, taken, upto)
                ledger.offer(begin, upto, now)
                wire.backlog.extend(range(begin, upto))
                taken = upto
            wire.expire(now)
            if wire.backlog:
                wire.send(now)
            now = time.monotonic_ns()
            following = due[taken] - now if taken < count else MAX_WAIT
            wire.turn(min(max(following, TURN if wire.links else 0), MAX_WAIT))
    return start


def closed_loop(wire: Wire, in_flight: int, duration: int, patience: int) -> tuple[int, int]:
    """Keep ``in_flight`` requests open for ``duration``. Return the begin and the end of the measured time, in ns."""
    ledger, taken = wire.ledger, 0
    with _without_collector():
        start = time.monotonic_ns()
        stop = start + duration
        while (now := time.monotonic_ns()) < stop + patience:
            fresh = min(in_flight - ledger.open, ledger.size - taken) if now < stop else 0
            if fresh > 0:
                for seq in range(taken, taken + fresh):
                    ledger.due[seq] = now
                ledger.offer(taken, taken + fresh, now)
                wire.backlog.extend(range(taken, taken + fresh))
                taken += fresh
            if not ledger.open:
                break
            if wire.backlog:
                wire.send(now)
            wire.turn(MAX_WAIT)
    return start, stop
