"""A client made with the library h2, which talks to a `Connection` without a socket."""

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from clockwork.http2.connection import Connection
from clockwork.http2.hpack import Block
from clockwork.http2.limits import Limits
from clockwork.http2.streams import Stream

HEADERS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"here"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


class Recorder:
    """A receiver that keeps all events."""

    def __init__(self) -> None:
        self.heads: dict[int, Any] = {}
        self.bodies: dict[int, bytes] = {}
        self.ends: list[int] = []
        self.resets: list[int] = []
        self.drains: list[int] = []
        self.direct: bytearray | None = None  #: memory for the body of a single stream
        self.parsed = 0  #: number of blocks that were decoded
        self.streams: dict[int, Stream] = {}
        self.connection: Connection

    def head_of(self, block: Block) -> Any:
        self.parsed += 1
        return block.fields if block.fields is not None else block.size

    def opened(self, stream: Stream, head: Any) -> None:
        self.heads[stream.id], self.bodies[stream.id], self.streams[stream.id] = head, b"", stream
        if stream.client_ended:
            self.ends.append(stream.id)

    def received(self, stream: Stream, data: bytes | memoryview) -> None:
        self.bodies[stream.id] += bytes(data)
        self.connection.grant(stream)

    def memory(self, stream: Stream) -> memoryview | None:
        return None if self.direct is None else memoryview(self.direct)[len(self.bodies[stream.id]) :]

    def received_directly(self, stream: Stream, nbytes: int) -> None:
        assert self.direct is not None
        at = len(self.bodies[stream.id])
        self.bodies[stream.id] += bytes(self.direct[at : at + nbytes])
        self.connection.grant(stream)

    def ended(self, stream: Stream) -> None:
        self.ends.append(stream.id)

    def reset(self, stream: Stream) -> None:
        self.resets.append(stream.id)

    def drained(self, stream: Stream) -> None:
        self.drains.append(stream.id)


class Pair:
    """A server's connection, and a client. `exchange` passes bytes in both directions until there are none."""

    def __init__(self, max_streams: int = 100, max_headers: int = 8192) -> None:
        self.recorder = Recorder()
        self.server = Connection(self.recorder, Limits(max_streams, max_headers), 0)
        self.recorder.connection = self.server
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.client.initiate_connection()
        self.events: list[Any] = []
        self.now = 0

    def exchange(self, piece: int | None = None) -> None:
        """Pass all bytes on. If ``piece`` is set, the server gets at most this number of bytes at a time."""
        while True:
            data = self.client.data_to_send()
            size = piece or max(1, len(data))
            for at in range(0, len(data), size):
                self.server.receive(data[at : at + size], self.now)
            sent = b"".join(bytes(part) for part in self.server.out)
            self.server.out = []
            if sent:
                for event in self.client.receive_data(sent):
                    self.events.append(event)
                    if isinstance(event, h2.events.DataReceived):
                        self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if not data and not sent:
                return

    def of(self, kind: type) -> list[Any]:
        """Return the client's events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]
