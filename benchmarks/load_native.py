"""A load generator for the native protocol, with a few connections.

Each frame is encoded once. Only the id and the SLO in a frame change.
"""

import struct
import time

from load_ledger import BROKEN, REFUSED, TIMED_OUT, Ledger
from load_loop import MAX_RECONNECTS, Link, Wire

from clockwork.messages.link import ROLE_CLIENT, Goodbye, Hello, Ping, Pong
from clockwork.messages.requests import InferRequest
from clockwork.messages.status import Status, status_name
from clockwork.messages.tensors import TensorSpec
from clockwork.wire.codec import decode_response, encode
from clockwork.wire.frame import encode_frame, preamble

CONNECTIONS = 16
BATCH = 32  # number of requests in one write
FIRST_ID = 1 << 16
"""The first id of a request. The encoding of this id and of all larger ids has four bytes."""

LENGTHS = struct.Struct("<II")
ANSWER = struct.Struct(">BBBIB")  # array, tag, type uint32, id, status
U32, U64 = struct.Struct(">I"), struct.Struct(">Q")
UINT32 = 0xCE
ID_MARK, SLO_MARK = 0x7FEDCBA9, 0x7FEDCBA987654321

REFUSALS = (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME, Status.SHUTTING_DOWN)
ADMITTED = b"admitted, "
"""The beginning of the message for a request that was admitted but will be late."""


class NativeLink(Link):
    """A connection of the load generator, with many requests in flight."""

    def __init__(self, wire: "NativeWire") -> None:
        super().__init__(wire)
        self.open: set[int] = set()
        self.greeted = False
        self._rest = b""
        self.write(preamble(), *encode_frame(encode(Hello(ROLE_CLIENT, "", "load"))))

    def on_data(self, data: bytes, now: int) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= LENGTHS.size:
            total, header = LENGTHS.unpack_from(data, at)
            begin = at + LENGTHS.size
            if begin + total > end:
                break
            at = begin + total
            if header >= ANSWER.size and data[begin + 2] == UINT32 and data[begin + 1] < 0x80:
                _, _, _, number, status = ANSWER.unpack_from(data, begin)
                self._answer(number - FIRST_ID, status, data[begin : begin + header], data[begin + header : at], now)
            else:
                self._greet(data[begin : begin + header], now)
                if self.closed:
                    return
        self._rest = data[at:]

    def _answer(self, seq: int, status: int, header: bytes, payload: bytes, now: int) -> None:
        ledger = self.wire.ledger
        self.open.discard(seq)
        if status == Status.SUCCESS:
            ledger.succeed(seq, payload, now)
        elif ADMITTED in header:
            ledger.finish(seq, BROKEN, now)
        elif status in REFUSALS:
            ledger.finish(seq, REFUSED, now)
        elif status == Status.TIMEOUT:
            ledger.finish(seq, TIMED_OUT, now)
        else:
            ledger.fail(seq, f"status {status_name(status)}", now)

    def _greet(self, header: bytes, now: int) -> None:
        message = decode_response(header)
        if isinstance(message, Ping):
            self.write(*encode_frame(encode(Pong(message.sent, now, time.monotonic_ns()))))
        elif isinstance(message, Goodbye):
            self.lose(f"the server ended it: {message.reason}")
        else:
            self.greeted = True

    def unanswered(self) -> list[int]:
        return list(self.open)


class NativeWire(Wire):
    """A load over `CONNECTIONS` native connections, which take turns."""

    def __init__(self, address: str, ledger: Ledger) -> None:
        super().__init__(address, ledger)
        self._encoded = []
        for template in ledger.templates:
            spec = TensorSpec(template.input, "FP32", template.array.shape, template.array.nbytes)
            request = InferRequest(ID_MARK, template.model, (spec,), SLO_MARK)
            first, *payload = encode_frame(encode(request), [template.array.data])
            head = bytearray(first)
            self._encoded.append((head, head.index(U32.pack(ID_MARK)), head.index(U64.pack(SLO_MARK)), payload))
        self._turn = 0

    def send(self, now: int) -> None:
        while len(self.links) < CONNECTIONS and self.reconnects < MAX_RECONNECTS:
            self.add(NativeLink(self))
        links = [link for link in self.links.values() if isinstance(link, NativeLink) and link.greeted]
        for _ in range(len(links)):
            if not self.backlog:
                return
            self._turn += 1
            link = links[self._turn % len(links)]
            if link.idle and not link.closed:
                self._write(link, self.take(BATCH if not self._encoded[0][3] else 1, now), now)

    def _write(self, link: NativeLink, seqs: list[int], now: int) -> None:
        stated, kind, encoded = self.ledger.stated, self.ledger.kind, self._encoded
        parts: list[bytes | memoryview] = []
        for seq in seqs:
            head, id_at, slo_at, payload = encoded[kind[seq]]
            U32.pack_into(head, id_at, FIRST_ID + seq)
            U64.pack_into(head, slo_at, stated(seq, now))
            parts.append(bytes(head))
            parts += payload
        link.open.update(seqs)
        if len(parts) == len(seqs):
            link.write(b"".join(parts))
        else:
            link.write(*parts)
