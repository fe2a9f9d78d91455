"""Calls of a live server, with clients that send single frames, and with gRPC's own client."""

import asyncio
import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

import grpc
import pytest

from client.live import LOOPBACK, ScriptedWorker, run, serving
from clockwork.controller.stage import Stage
from clockwork.grpc_frontend import connection, handling, serve_grpc, service
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend import server as serve_module
from clockwork.grpc_frontend.config import GrpcConfig
from clockwork.grpc_frontend.replies import MAX_MESSAGE, failure_block
from clockwork.host.controller import ControllerHost
from clockwork.http2.hpack import Decoder, encoded
from clockwork.messages.actions import Infer
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure
from clockwork.units import MIB, MILLISECOND, SECOND
from http2_raw import DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Http2, frame

SERVICE = "/inference.GRPCInferenceService/"
GOAWAY = 7


def infer_request(rows: int = 1, **parameters: pb.InferParameter) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[rows, 4])
    message = pb.ModelInferRequest(
        model_name="m", inputs=[tensor], raw_input_contents=[bytes(16 * rows)], parameters=parameters
    )
    return bytes(message.SerializeToString())


def held(action: Any) -> bool:
    """Hold back batches of 3 rows, which profiling does not use."""
    return isinstance(action, Infer) and any(share.batch_size == 3 for share in action.inputs)


@asynccontextmanager
async def server(
    config: GrpcConfig | None = None, **settings: Any
) -> AsyncIterator[tuple[ControllerHost, ScriptedWorker, str]]:
    async with serving(**settings) as (host, worker), serve_grpc(host, LOOPBACK, config or GrpcConfig()) as found:
        while host.progress()[0] != Stage.SERVING.value:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        yield host, worker, str(found.address)


def headers(
    method: str = "ModelInfer", stream: int = 1, *, ends: bool = False, begin: dict[str, str] | None = None, **more: str
) -> bytes:
    """Return the HEADERS of a call.

    ``begin`` and ``more`` change headers. An empty value omits a header. Underscores in ``more`` are hyphens.
    """
    fields = {":method": "POST", ":scheme": "http", ":path": SERVICE + method, "content-type": "application/grpc"}
    fields |= (begin or {}) | {name.replace("_", "-"): value for name, value in more.items()}
    block = b"".join(encoded(name.encode(), value.encode()) for name, value in fields.items() if value)
    return frame(HEADERS, END_HEADERS | ends, stream, block)


def data(message: bytes, stream: int = 1, *, compressed: int = 0, ends: bool = True) -> bytes:
    return frame(DATA, int(ends), stream, struct.pack(">BI", compressed, len(message)) + message)


def answer(address: str, *sent: bytes) -> tuple[dict[str, str], bytes]:
    """Send bytes. Return all headers that the server sends for stream 1, and the body."""
    peer = Http2(address)
    try:
        peer.send(b"".join(sent))
        return read_answer(peer)
    finally:
        peer.close()


def read_answer(peer: Http2, stream: int = 1) -> tuple[dict[str, str], bytes]:
    decoder, body = Decoder(1 << 20), b""
    found: dict[str, str] = {}
    for kind, flags, number, payload in peer.frames():
        if kind == GOAWAY:
            return {"goaway": payload[8:].decode()}, body
        if number != stream:
            continue
        if kind == HEADERS:
            fields = decoder.decode(payload).fields
            assert fields is not None
            found |= {name.decode(): value.decode() for name, value in fields}
        elif kind == DATA:
            body += payload
        elif kind == RST_STREAM:
            found["reset"] = str(int.from_bytes(payload))
        if kind == RST_STREAM or flags & END_STREAM:
            return found, body
    return found, body


def talk(act: Callable[[str], Any], config: GrpcConfig | None = None, **settings: Any) -> Any:
    """Run ``act`` with the address of a server in a thread, and return its result."""

    async def test() -> Any:
        async with server(config, **settings) as (_, _, address):
            return await asyncio.to_thread(act, address)

    results = []

    async def kept() -> None:
        results.append(await test())

    run(kept())
    return results[0]


def recorded_connections(monkeypatch: pytest.MonkeyPatch) -> list[connection.GrpcConnection]:
    """Return a list of the connections that are made from now on."""
    made: list[connection.GrpcConnection] = []
    connection_made = connection.GrpcConnection.connection_made

    def recorded(self: connection.GrpcConnection, transport: Any) -> None:
        made.append(self)
        connection_made(self, transport)

    monkeypatch.setattr(connection.GrpcConnection, "connection_made", recorded)
    return made


def test_a_call_is_answered() -> None:
    found, body = talk(lambda address: answer(address, headers(), data(infer_request())))
    assert found == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity,deflate,gzip",
        "grpc-status": "0",
    }
    assert body[:5] == struct.pack(">BI", 0, len(body) - 5)
    response = pb.ModelInferResponse.FromString(body[5:])
    assert (response.model_name, len(response.raw_output_contents[0])) == ("m", 16)


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_a_message_may_arrive_in_many_frames(piece: int) -> None:
    whole = struct.pack(">BI", 0, len(infer_request())) + infer_request()
    pieces = [frame(DATA, 0, 1, whole[at : at + piece]) for at in range(0, len(whole), piece)]
    found, _ = talk(lambda address: answer(address, headers(), *pieces, frame(DATA, 1, 1)))
    assert found["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("frames", "status", "why"),
    [
        ([headers(ends=True)], "3", "exactly one message"),
        ([headers(), frame(DATA, 1, 1, b"\0\0\0\0\x05abc")], "3", "exactly one message"),
        ([headers(), data(b"", ends=False) + data(b"")], "3", "exactly one message"),
        ([headers(), frame(DATA, 0, 1, b"\x02\0\0\0\0")], "3", "the first byte of a message is 2"),
        ([headers(), frame(DATA, 0, 1, b"\0\xff\xff\xff\xff")], "8", "message is 4294967295 bytes; the limit is"),
        ([headers("Nothing"), data(b"")], "12", "method /inference.GRPCInferenceService/Nothing is unknown"),
        ([headers(grpc_timeout="soon"), data(infer_request())], "3", "grpc-timeout is"),
        ([headers(grpc_encoding="snappy"), data(infer_request())], "12", "grpc-encoding 'snappy' is unknown"),
        ([headers(), data(infer_request(), compressed=1)], "13", "grpc-encoding is missing"),
        ([headers(grpc_encoding="gzip"), data(b"nothing", compressed=1)], "3", "cannot be unpacked"),
        ([headers(x="a" * 9000), data(infer_request())], "8", "the limit is 8192"),
        ([headers("ModelStreamInfer"), frame(DATA, 1, 1, b"\0\0\0\0\x05abc")], "3", "stream is incomplete"),
    ],
)
def test_wrong_calls_get_a_status(frames: list[bytes], status: str, why: str) -> None:
    found, _ = talk(lambda address: answer(address, *frames))
    assert (found[":status"], found["grpc-status"]) == ("200", status)
    assert why in found["grpc-message"]


@pytest.mark.parametrize(
    ("frames", "outcome"),
    [
        ([headers(content_type="text/html"), data(b"")], {":status": "415"}),
        ([headers(content_type=""), data(b"")], {":status": "415"}),
        ([headers(begin={":method": "GET"})], {":status": "405"}),
        ([headers(begin={":path": ""})], {"reset": "1"}),
        ([headers(connection="close")], {"reset": "1"}),
    ],
)
def test_requests_that_are_no_calls_are_refused(frames: list[bytes], outcome: dict[str, str]) -> None:
    assert talk(lambda address: answer(address, *frames))[0] == outcome


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", None)]
)
def test_messages_may_be_compressed(encoding: str, compress: Any) -> None:
    message = infer_request() if compress is None else compress(infer_request())
    sent = data(message, compressed=int(compress is not None))
    found, body = talk(lambda address: answer(address, headers(grpc_encoding=encoding), sent))
    assert found["grpc-status"] == "0"
    assert len(pb.ModelInferResponse.FromString(body[5:]).raw_output_contents[0]) == 16


def test_a_stream_may_be_compressed() -> None:
    messages = [data(gzip.compress(infer_request()), compressed=1, ends=False) for _ in range(3)]
    sent = [headers("ModelStreamInfer", grpc_encoding="gzip"), *messages, frame(DATA, 1, 1)]
    found, body = talk(lambda address: answer(address, *sent))
    assert found["grpc-status"] == "0"
    assert body.count(b"total_ms") == 3


def test_a_compressed_message_is_unpacked_only_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "MAX_UNPACKED", 4 * MIB)
    bomb = gzip.compress(bytes(10 * MIB))
    found, _ = talk(lambda address: answer(address, headers(grpc_encoding="gzip"), data(bomb, compressed=1)))
    assert (found["grpc-status"], "unpacks to more than the limit" in found["grpc-message"]) == ("3", True)


def test_a_clear_answer_to_http_1() -> None:
    def ask(address: str) -> bytes:
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            return b"".join(iter(lambda: peer.recv(1000), b""))

    reply = talk(ask)
    assert reply.startswith(b"HTTP/1.1 505 ")
    assert b"This port serves gRPC over HTTP/2" in reply


def test_a_violation_is_explained_in_goaway() -> None:
    found, _ = talk(lambda address: answer(address, frame(PING, 0, 1, bytes(8))))
    assert found == {"goaway": "PING is for the connection"}


def test_the_deadline_counts_from_the_first_byte_of_the_call() -> None:
    """The message arrives later than the deadline."""

    def late(address: str) -> dict[str, str]:
        peer = Http2(address)
        try:
            peer.send(headers(grpc_timeout="50m"))
            return read_answer(peer)[0]
        finally:
            peer.close()

    found = talk(late)
    assert (found["grpc-status"], found["grpc-message"]) == ("4", "the message arrived too slowly")


def test_an_upload_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "UPLOAD_TIME", 50 * MILLISECOND)
    whole = data(infer_request())
    found, _ = talk(lambda address: answer(address, headers(), whole[: len(whole) // 2]))
    assert found["grpc-message"] == "the message arrived too slowly"


def test_the_deadline_of_a_stream_ends_it() -> None:
    found, _ = talk(lambda address: answer(address, headers("ModelStreamInfer", grpc_timeout="50m")))
    assert (found["grpc-status"], found["clockwork-status-name"]) == ("4", "TIMEOUT")


def test_calls_beyond_the_limit_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "MAX_CALLS", 2)

    async def test() -> None:
        async with server(holds=held) as (_, _, address), grpc.aio.insecure_channel(address) as channel:
            infer = channel.unary_unary(SERVICE + "ModelInfer")
            calls = [asyncio.ensure_future(infer(infer_request(rows=3))) for _ in range(20)]
            for refused, call in enumerate(asyncio.as_completed(calls), 1):
                with pytest.raises(grpc.aio.AioRpcError, match="limit of 2 calls at a time") as error:
                    await call
                assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                if refused == 18:
                    break
            for held_back in calls:
                held_back.cancel()
            await asyncio.wait(calls)
            assert len(await infer(infer_request())) > 16, "cancelled calls do not count"

    run(test())


def test_idle_streams_do_not_prevent_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "MAX_CALLS", 2)

    def occupy(address: str) -> list[str]:
        peer = Http2(address)
        try:
            peer.send(b"".join(headers("ModelStreamInfer", stream) for stream in (1, 3, 5)))
            found = [read_answer(peer, 5)[0]]
            for stream, method in ((7, "ServerLive"), (9, "ModelInfer")):
                peer.send(headers(method, stream) + data(infer_request() if stream == 9 else b"", stream))
                found.append(read_answer(peer, stream)[0])
            return [each["grpc-status"] for each in found]
        finally:
            peer.close()

    assert talk(occupy) == ["8", "0", "0"]


def test_a_long_error_message_fits_into_a_frame_of_headers() -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="\u6a21" * 4000, datatype="FP32", shape=[1, 4])
    message = pb.ModelInferRequest(model_name="m", inputs=[tensor, tensor], raw_input_contents=[bytes(16)] * 2)
    tensor.contents.fp32_contents.append(1)
    found, _ = talk(lambda address: answer(address, headers(), data(bytes(message.SerializeToString()))))
    assert found["grpc-status"] == "3"
    assert len(found["grpc-message"]) <= 3 * MAX_MESSAGE
    for text in ("\u6a21" * 10_000, "a\ud800" * 10_000, "\U0001f600" * 10_000):
        block = failure_block(Failure.from_status(Status.INVALID_REQUEST, text))
        (_, (_, encoded_text), *_) = Decoder(1 << 20).decode(block).fields or ()
        assert unquote(encoded_text.decode(), errors="strict")


def test_each_connection_has_its_own_limit_on_pending_requests() -> None:
    async def test() -> None:
        async with server(holds=held, max_client_pending=2) as (_, worker, address):
            options = [[("clockwork.number", number)] for number in range(2)]  # channels with equal options share one
            greedy, other = (grpc.aio.insecure_channel(address, options=option) for option in options)
            calls = [greedy.unary_unary(SERVICE + "ModelInfer")(infer_request(3)) for _ in range(2)]
            waiting = [asyncio.ensure_future(call) for call in calls]
            await worker.until(lambda: bool(worker.held))
            with pytest.raises(grpc.aio.AioRpcError, match="this connection has too many pending requests"):
                await greedy.unary_unary(SERVICE + "ModelInfer")(infer_request())
            assert await other.unary_unary(SERVICE + "ModelInfer")(infer_request())
            for call in waiting:
                call.cancel()
            await asyncio.wait(waiting)
            await greedy.close()
            await other.close()

    run(test())


def test_a_client_of_the_controller_ends_with_its_connection() -> None:
    async def test() -> None:
        async with server() as (host, _, address):
            before = len(host._clients)
            for _ in range(5):
                found, _ = await asyncio.to_thread(answer, address, headers(), data(infer_request()))
                assert found["grpc-status"] == "0"
            while len(host._clients) > before:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)

    run(test())


def test_a_request_that_begins_after_its_connection_leaves_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recorded_connections(monkeypatch)

    async def test() -> None:
        async with server() as (host, _, address):
            before = len(host._clients)
            await asyncio.to_thread(answer, address, headers("ServerLive"), data(b""))
            await made[0].ended
            assert made[0].client is made[0].client
            assert len(host._clients) == before

    run(test())


def test_a_connection_that_does_not_begin_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE", 50 * MILLISECOND)

    def silent(address: str) -> bytes:
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=30) as peer:
            return b"".join(iter(lambda: peer.recv(1000), b""))

    assert talk(silent) == b""


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE", 20 * MILLISECOND)
    monkeypatch.setattr(connection, "IDLE", 100 * MILLISECOND)

    def idle(address: str) -> dict[str, str]:
        peer = Http2(address)
        try:
            for kind, flags, _, payload in peer.frames():
                if kind == PING and not flags:
                    peer.send(frame(PING, 1, 0, payload))
                if kind == GOAWAY:
                    return {"goaway": payload[8:].decode()}
        finally:
            peer.close()
        return {}

    assert talk(idle, GrpcConfig(keep_alive=20 * MILLISECOND)) == {"goaway": "the connection was idle"}


def test_a_peer_that_does_not_reply_to_a_ping_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE", 50 * MILLISECOND)

    def dead(address: str) -> list[int]:
        peer = Http2(address)
        try:
            peer.send(headers("ModelStreamInfer"))
            return [kind for kind, flags, _, _ in peer.frames() if kind == PING]
        except ConnectionError:
            return [PING]
        finally:
            peer.close()

    assert talk(dead, GrpcConfig(keep_alive=SECOND // 20)) == [PING]


def test_the_responses_of_a_client_that_reads_nothing_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server reads no more requests while the responses wait. Without this, each byte would cause 300 more."""
    made = recorded_connections(monkeypatch)
    symbol = b"inference.GRPCInferenceService"
    question = data(b"\x22" + bytes([len(symbol)]) + symbol, ends=False)

    def flood(address: str) -> None:
        peer = Http2(address)
        try:
            peer.send(frame(4, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1)))
            peer.send(frame(8, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65_535)))
            path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            peer.send(headers(begin={":path": path}))
            peer._socket.settimeout(0.5)
            with suppress(TimeoutError):
                for _ in range(MIB // len(question)):  # the window of the stream
                    peer.send(question)
        finally:
            buffered.append(made[0]._transport.get_write_buffer_size())
            peer.close()

    buffered: list[int] = []
    talk(flood)
    assert 0 < buffered[0] < MIB


def test_a_stream_goes_on_after_a_response_waited_for_the_window() -> None:
    """The reader of the requests and the writer of the responses wait for the client at the same time."""

    def slow(address: str) -> list[str]:
        peer = Http2(address)
        try:
            peer.send(frame(4, 0, 0, struct.pack(">HI", 4, 20)))
            peer.send(headers("ModelStreamInfer") + data(infer_request(), ends=False))
            seen: list[str] = []
            for kind, _, stream, _ in peer.frames():
                if kind == DATA and not seen:
                    seen.append("blocked")
                    peer.send(frame(8, 0, 1, struct.pack(">I", MIB)))
                elif kind == DATA and seen == ["blocked"]:
                    seen.append("continued")
                    peer.processed()
                    peer.send(data(infer_request()))
                elif kind == HEADERS and stream == 1 and seen:
                    return seen
        finally:
            peer.close()
        return []

    assert talk(slow) == ["blocked", "continued"]


def test_a_stream_without_a_deadline_may_last_longer_than_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "UPLOAD_TIME", 50 * MILLISECOND)

    def patient(address: str) -> dict[str, str]:
        peer = Http2(address)
        try:
            peer.send(headers("ModelStreamInfer"))
            peer._socket.settimeout(0.3)
            with suppress(TimeoutError):
                return read_answer(peer)[0]
            return {}
        finally:
            peer.close()

    assert talk(patient) == {}


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_an_incomplete_message_ends_its_call_even_in_a_stream(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(handling, "UPLOAD_TIME", 50 * MILLISECOND)
    whole = data(infer_request())
    found, _ = talk(lambda address: answer(address, headers(method), whole[: len(whole) - 1]))
    assert found["grpc-message"] == "the message arrived too slowly"


def test_a_call_that_may_last_long_has_no_time_limit_after_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "UPLOAD_TIME", 50 * MILLISECOND)

    async def slow(self: Any, message: Any, call: Any) -> Any:
        await asyncio.sleep(0.2)
        return pb.ServerLiveResponse(live=True)

    monkeypatch.setattr(service.Service, "server_live", slow)

    def late(address: str) -> dict[str, str]:
        peer = Http2(address)
        try:
            peer.send(headers("ServerLive"))
            peer.processed()
            peer.send(data(b""))
            return read_answer(peer)[0]
        finally:
            peer.close()

    assert talk(late)["grpc-status"] == "0"


class RecordingLoop:
    """An event loop that keeps the timers which it has started."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: list[asyncio.TimerHandle]) -> None:
        self._loop, self._timers = loop, timers

    def call_later(self, *arguments: Any) -> asyncio.TimerHandle:
        self._timers.append(self._loop.call_later(*arguments))
        return self._timers[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_a_call_that_ends_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer would keep the call and its connection until the call's deadline."""
    timers: list[asyncio.TimerHandle] = []
    opened = handling.Handler.opened

    def recorded(self: Any, *arguments: Any) -> None:
        self._loop = RecordingLoop(asyncio.get_running_loop(), timers)
        opened(self, *arguments)

    monkeypatch.setattr(handling.Handler, "opened", recorded)

    def ask(address: str) -> str:
        peer = Http2(address)
        try:
            peer.send(headers("ServerLive", grpc_timeout="1H"))
            peer.processed()
            peer.send(data(b""))
            return read_answer(peer)[0]["grpc-status"]
        finally:
            peer.close()

    assert talk(ask) == "0"
    assert timers
    assert all(timer.cancelled() for timer in timers)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_a_client_that_does_not_open_its_window_is_reset(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(connection, "WRITE_TIMEOUT", 0.1)

    def stall(address: str) -> tuple[str, str]:
        peer = Http2(address)
        try:
            peer.send(frame(4, 0, 0, struct.pack(">HI", 4, 20)))
            peer.send(headers(method) + data(infer_request()))
            found, _ = read_answer(peer)
            peer.send(headers("ServerLive", 3) + data(b"", 3))
            return found["reset"], read_answer(peer, 3)[0]["grpc-status"]
        finally:
            peer.close()

    assert talk(stall) == ("8", "0")


def test_an_upload_that_continues_after_the_response_is_reset_with_a_delay() -> None:
    """Some clients do not see a response that arrives together with the reset."""

    def upload(address: str) -> list[int]:
        peer = Http2(address)
        try:
            rest = frame(DATA, 0, 1, bytes(1000))
            peer.send(headers("Unknown") + data(b"begin", ends=False) + rest + frame(PING, 0, 0, bytes(8)))
            kinds = [kind for kind, _, _, _ in take_until(peer, RST_STREAM)]
            return [kind for kind in kinds if kind in (HEADERS, PING, RST_STREAM)]
        finally:
            peer.close()

    assert talk(upload) == [HEADERS, PING, RST_STREAM]


def take_until(peer: Http2, last: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield frames until one of the kind ``last``, which is included."""
    for found in peer.frames():
        yield found
        if found[0] == last:
            return


def test_responses_that_wait_for_windows_have_a_limit_on_their_total_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(stream: int) -> bytes:
        return headers("ServerMetadata", stream) + data(b"", stream)

    def fill(address: str) -> tuple[str, ...]:
        size = len(answer(address, call(1))[1]) - 5
        monkeypatch.setattr(handling, "MAX_WAITING", 2 * size)
        peer, other = Http2(address), Http2(address)
        try:
            for each in (peer, other):
                each.send(frame(4, 0, 0, struct.pack(">HI", 4, 0)))
            peer.send(call(1))
            assert next(kind for kind, _, stream, _ in peer.frames() if stream == 1) == HEADERS
            other.send(call(1))
            refused, _ = read_answer(other)
            with_room, _ = answer(address, call(1))
            peer.send(frame(8, 0, 1, struct.pack(">I", MIB)))
            first, _ = read_answer(peer)
            other.send(call(3) + frame(8, 0, 3, struct.pack(">I", MIB)))
            later, _ = read_answer(other, 3)
            peer.send(call(3))
            assert next(kind for kind, _, stream, _ in peer.frames() if stream == 3) == HEADERS
            peer.shut_down()
            assert not [kind for kind, _, stream, _ in peer.frames() if stream == 3]
        finally:
            peer.close()
            other.close()
        return tuple(found["grpc-status"] for found in (refused, with_room, first, later))

    async def test() -> None:
        counted: list[handling.Serving] = []
        start = handling.Serving.__init__

        def recorded(self: handling.Serving, *arguments: Any) -> None:
            counted.append(self)
            start(self, *arguments)

        monkeypatch.setattr(handling.Serving, "__init__", recorded)
        async with server() as (_, _, address):
            assert await asyncio.to_thread(fill, address) == ("8", "0", "0", "0")
        assert [serving.waiting for serving in counted] == [0]

    run(test())


def test_responses_that_wait_are_released_when_the_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is part of reference cycles, so it would keep them until the garbage collector runs."""
    made = recorded_connections(monkeypatch)

    def leave(address: str) -> int:
        peer = Http2(address)
        try:
            peer.send(frame(4, 0, 0, struct.pack(">HI", 4, 0)))
            peer.send(headers("ServerMetadata") + data(b""))
            assert next(kind for kind, _, stream, _ in peer.frames() if stream == 1) == HEADERS
            return made[0]._http.waiting_bytes
        finally:
            peer.close()

    assert talk(leave) > 0
    assert made[0].ended.done()
    assert made[0]._http.waiting_bytes == 0
    assert not made[0]._http.streams


def test_a_response_that_waits_for_a_window_is_sent_while_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "GRACE", 60.0)  # the client opens its window at once

    def begin(peer: Http2) -> None:
        peer.send(frame(4, 0, 0, struct.pack(">HI", 4, 0)))
        peer.send(headers("ServerMetadata") + data(b""))
        assert next(kind for kind, _, stream, _ in peer.frames() if stream == 1) == HEADERS

    def finish(peer: Http2) -> dict[str, str]:
        assert next(kind for kind, _, _, _ in peer.frames() if kind == GOAWAY) == GOAWAY
        peer.send(frame(8, 0, 1, struct.pack(">I", MIB)))
        return read_answer(peer)[0]

    async def test() -> None:
        async with server() as (_, _, address):
            peer = Http2(address)
            await asyncio.to_thread(begin, peer)
            finishing = asyncio.create_task(asyncio.to_thread(finish, peer))
        try:
            assert (await finishing).get("grpc-status") == "0"
        finally:
            peer.close()

    run(test())
