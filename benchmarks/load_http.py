"""A load generator for HTTP/1.1. Each keep-alive connection has one request in flight.

A new connection is opened when no connection is free.
"""

import json
from typing import Any

from load_ledger import BROKEN, REFUSED, TIMED_OUT, Ledger
from load_loop import MAX_RECONNECTS, Link, Wire

from clockwork.units import MILLISECOND

MAX_CONNECTIONS = 2_000
MAX_LARGE_CONNECTIONS = 400
"""Largest number of connections if requests are large. Each may take the kernel's memory for a whole request."""

LARGE = 1 << 16
ADMITTED = b"admitted, "
LENGTH = b"\r\ncontent-length:"
CHUNKED = b"\r\ntransfer-encoding: chunked"
LAST_CHUNK = b"\r\n0\r\n\r\n"
"""End of a chunked body. Only texts of errors are chunked, so the bytes do not occur earlier."""

SLO_MARK = b"12345.5"


class HttpLink(Link):
    """An HTTP connection of the load generator."""

    def __init__(self, wire: "HttpWire") -> None:
        super().__init__(wire)
        self.seq = -1  #: sequence number of the request in flight
        self._wire = wire
        self._answered = True
        self._received = b""

    def request(self, seq: int, parts: list[Any]) -> None:
        """Send a request."""
        self.seq, self._answered, self._received = seq, False, b""
        self.write(*parts)

    def on_data(self, data: bytes, now: int) -> None:
        self._received = received = self._received + data if self._received else data
        middle = received.find(b"\r\n\r\n")
        if middle < 0:
            return
        head = received[: middle + 2].lower()
        at = head.find(LENGTH)
        if at < 0 and CHUNKED in head:
            end = received.find(LAST_CHUNK, middle + 2) + len(LAST_CHUNK)
            if end < middle:
                return
        else:
            end = middle + 4 + (int(head[at + len(LENGTH) : head.index(b"\r", at + 2)]) if at >= 0 else 0)
            if len(received) < end:
                return
        status, seq = int(received[9:12]), self.seq
        if 100 <= status < 200:
            self._received = received[middle + 4 :]
            return
        self._answer(seq, status, received[middle + 4 : end], now)
        self._wire.ledger.unknown += len(received) > end
        self.seq, self._answered = -1, True
        if b"\r\nconnection: close" in head:
            self.lose("the server's answer says close")
        elif self.idle:
            self._wire.free.append(self)

    def on_writable(self) -> None:
        if self._answered and self.idle and not self.closed and self not in self._wire.free:
            self._wire.free.append(self)  # the request was answered before its body was sent, or the connection is new

    def _answer(self, seq: int, status: int, body: bytes, now: int) -> None:
        ledger = self._wire.ledger
        if status == 200 and seq >= 0:
            ledger.succeed(seq, body[-ledger.answer_bytes[ledger.kind[seq]] :], now)
        elif status in (429, 503):
            ledger.finish(seq, BROKEN if ADMITTED in body else REFUSED, now)
        elif status in (408, 504):
            ledger.finish(seq, TIMED_OUT, now)
        else:
            ledger.fail(seq, f"HTTP {status}", now)

    def unanswered(self) -> list[int]:
        return [] if self._answered else [self.seq]


class HttpWire(Wire):
    """A load over HTTP connections. The connection that was used last is used first."""

    def __init__(self, address: str, ledger: Ledger) -> None:
        super().__init__(address, ledger)
        self.free: list[HttpLink] = []
        self._heads = [self._head(address, template) for template in ledger.templates]
        self._bodies = [template.array.data.cast("B") for template in ledger.templates]
        large = max(map(len, self._bodies)) >= LARGE
        self._limit = MAX_LARGE_CONNECTIONS if large else MAX_CONNECTIONS

    @staticmethod
    def _head(address: str, template: Any) -> tuple[bytes, bytes]:
        """Return the bytes of a request before and after the SLO. The SLO always has seven bytes."""
        tensor = {"name": template.input, "datatype": "FP32", "shape": template.array.shape}
        tensor["parameters"] = {"binary_data_size": template.array.nbytes}
        described = json.dumps(
            {"inputs": [tensor], "parameters": {"binary_data_output": True, "slo_ms": float(SLO_MARK)}}
        ).encode()
        head = (
            f"POST /v2/models/{template.model}/infer HTTP/1.1\r\nHost: {address}\r\n"
            f"Content-Length: {len(described) + template.array.nbytes}\r\n"
            f"Inference-Header-Content-Length: {len(described)}\r\n\r\n"
        )
        before, _, after = (head.encode() + described).partition(SLO_MARK)
        return before, after

    def lost(self, link: Any) -> None:
        super().lost(link)
        if link in self.free:
            self.free.remove(link)

    def send(self, now: int) -> None:
        while self.backlog:
            if not self.free:
                missing = min(len(self.backlog), self._limit - len(self.links), 64)
                if missing <= 0 or self.reconnects >= MAX_RECONNECTS:
                    return
                self.free += [self._opened() for _ in range(missing)]
            seqs = self.take(1, now)
            if not seqs:
                return
            self._write(self.free.pop(), seqs[0], now)

    def _opened(self) -> HttpLink:
        link = HttpLink(self)
        self.add(link)
        return link

    @staticmethod
    def _slo(nanos: int) -> bytes:
        """Return the text of an SLO. Its length is that of `SLO_MARK`."""
        return b"%7.1f" % (nanos / MILLISECOND)

    def _write(self, link: HttpLink, seq: int, now: int) -> None:
        kind = self.ledger.kind[seq]
        before, after = self._heads[kind]
        head = before + self._slo(self.ledger.stated(seq, now)) + after
        body = self._bodies[kind]
        link.request(seq, [head + body] if len(body) < LARGE else [head, body])
