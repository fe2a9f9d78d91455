"""Makes HTTP/2 frames (RFC 9113) with some HPACK (RFC 7541) that no client library would send."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: ":method POST" and ":scheme http". Five entries follow, which the dynamic table keeps. Number 62 is the newest.
_BEGIN = b"\x83\x86"
_REPEATED = b"\xc2\xc1\xc0\xbf"
_NEWEST = b"\xbe"


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _text(data: bytes) -> bytes:
    assert len(data) < 127
    return bytes([len(data)]) + data


def first_headers(path: str, name: bytes, value: bytes, repeats: int) -> bytes:
    """Return the headers of a gRPC call that repeat ``name: value``. Each repetition takes one byte."""
    kept = b"\x44" + _text(path.encode()) + b"\x41" + _text(b"a") + b"\x5f" + _text(b"application/grpc")
    kept += b"\x40" + _text(b"te") + _text(b"trailers") + b"\x40" + _text(name) + _text(value)
    return _BEGIN + kept + _NEWEST * (repeats - 1)


def later_headers(repeats: int) -> bytes:
    """Return the same headers again. They consist only of table entries."""
    return _BEGIN + _REPEATED + _NEWEST * repeats


class Http2:
    """A client's connection."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._file = self._socket.makefile("rb")
        self._pings = 0
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def processed(self) -> None:
        """Wait until the server has processed all frames that were sent. The server's reply to a ping shows this."""
        self._pings += 1
        mark = struct.pack(">Q", self._pings)
        self.send(frame(PING, 0, 0, mark))
        for kind, flags, _, body in self.frames():
            if (kind, flags, body) == (PING, ACK, mark):
                return
        raise AssertionError("the server has closed the connection")

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield kind, flags, stream and body of each received frame."""
        while len(head := self._file.read(9)) == 9:
            length = int.from_bytes(head[:3])
            yield head[3], head[4], int.from_bytes(head[5:]), self._file.read(length)

    def shut_down(self) -> None:
        """End the connection, which ends `frames`."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def connections(address: str, count: int) -> Iterator[list[Http2]]:
    """Open ``count`` connections."""
    opened: list[Http2] = []
    try:
        opened += (Http2(address) for _ in range(count))
        yield opened
    finally:
        for connection in opened:
            connection.close()
