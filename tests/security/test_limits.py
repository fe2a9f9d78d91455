"""Limits of the HTTP, gRPC and native ports: a client that exceeds one receives an error, and others are served."""

import asyncio
import json
import socket
from contextlib import AsyncExitStack, suppress
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, run, serving
from clockwork.grpc_frontend import serve_grpc
from clockwork.grpc_frontend.config import GrpcConfig
from clockwork.http.config import HttpConfig
from clockwork.messages.requests import EvictRequest, EvictResponse
from clockwork.net.connection import LinkConfig
from clockwork.net.write_timeout import MIN_PROGRESS, WriteTimeout
from clockwork.units import MIB, ms
from http_raw import connected, eventually, row, served
from net.links import Ear, framed, listening, raw_peer

INFER = "/v2/models/m/infer"


def test_a_connection_over_the_limit_is_refused_and_open_ones_go_on() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(max_connections=2)) as (peer, address, *_), connected(address) as second:
            assert (await second.ask("GET", "/v2/health/live")).status == 200
            async with connected(address) as third:
                answer = await third.answer()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert "connection limit reached (2)" in answer.json()["error"]
                assert await third.reader.read() == b""
            assert (await peer.ask("POST", INFER, row())).status == 200
            second.writer.close()
            await second.writer.wait_closed()

            async def is_accepted() -> bool:
                async with connected(address) as other:
                    other.say("GET", "/v2/health/live")
                    return (await other.answer()).status == 200

            while not await is_accepted():  # until the server has noticed that the second connection is closed
                pass

    run(test())


@pytest.mark.parametrize("length", [5_000, 100_000], ids=["small", "large"])
def test_a_body_that_arrives_too_slowly_is_refused(length: int) -> None:
    async def test() -> None:
        config = HttpConfig(piece=1, body_timeout=10, body_time=0.2)
        async with served(http=config) as (peer, *_):
            peer.writer.write(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())

            async def drip() -> None:
                while True:
                    peer.writer.write(b"x")
                    await asyncio.sleep(0.01)

            dripping = asyncio.ensure_future(drip())
            answer = await peer.answer()
            dripping.cancel()
            assert answer.status == 408
            assert "0.2 s in all" in answer.json()["error"]

    run(test())


@pytest.mark.parametrize("after", [b"", b"x" * 1000], ids=["nothing", "a part"])
def test_the_server_does_not_wait_forever_for_a_refused_body(after: bytes) -> None:
    async def test() -> None:
        async with served(http=HttpConfig(head_timeout=0.05)) as (peer, *_):
            peer.writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
            assert (await peer.answer()).status == 404
            peer.writer.write(after)
            assert await peer.reader.read() == b""

    run(test())


def test_empty_lines_between_requests_do_not_count_as_a_request() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(head_timeout=0.05, keep_alive=1)) as (peer, *_):
            assert (await peer.ask("GET", "/v2/health/live")).status == 200
            peer.writer.write(b"\r\n")
            with suppress(asyncio.IncompleteReadError):
                assert (await peer.answer()).status == 408
            assert await peer.reader.read() == b""

    run(test())


def test_a_large_refused_body_is_not_kept_in_memory() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(max_held=1 << 20)) as (peer, address, *_):
            peer.writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert (await peer.answer()).status == 404
            peer.writer.write(bytes(900_000))
            await peer.writer.drain()
            async with connected(address) as other:
                assert (await other.ask("POST", INFER, row() + b" " * 200_000)).status == 200

    run(test())


def test_a_client_that_disconnects_in_the_middle_of_a_body_frees_its_memory() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(piece=1 << 10, max_held=1 << 12)) as (peer, address, *_):
            for _ in range(10):
                async with connected(address) as other:
                    other.writer.write(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode())
                    other.writer.write(bytes(3 << 10))
                    await other.writer.drain()
                    # By the end of another request the server has received the beginning of the body.
                    assert (await peer.ask("GET", "/v2/health/live")).status == 200

            async def answered() -> int:
                return (await peer.ask("POST", INFER, row() + b" " * (1 << 11))).status

            while await answered() != 200:  # until the server has noticed that all are closed
                pass

    run(test())


def small_window(address: Any) -> socket.socket:
    """Open a connection with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(tuple(address))
    return connection


async def send_requests_forever(deaf: socket.socket) -> None:
    request = b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    while True:
        await asyncio.get_running_loop().sock_sendall(deaf, request)


def test_an_http_client_that_does_not_read_is_disconnected() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(write_timeout=0.1)) as (peer, address, *_):
            with small_window(address) as deaf:
                deaf.setblocking(False)
                with pytest.raises(ConnectionError):
                    await send_requests_forever(deaf)
            assert (await peer.ask("POST", INFER, row())).status == 200

    run(test())


def test_a_native_client_that_does_not_read_is_disconnected() -> None:
    async def test() -> None:
        def much(connection: Any, message: Any, payload: Any) -> None:
            connection.send(EvictResponse(message.id, 0, ""), [bytes(16 * MIB)])

        ear = Ear(much)
        async with listening(ear, config=LinkConfig(write_timeout=ms(50))) as server:
            async with raw_peer(server, greets=True) as peer:
                peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
                peer.send(framed(EvictRequest(1, "m")))
                await ear.until(lambda: bool(ear.closed))
            assert ear.reasons == ["the peer read less than 1.0 MiB in 50 ms although more waits for it"]

    run(test())


class Slow:
    """A transport with a settable write buffer."""

    def __init__(self) -> None:
        self.waiting = 10 * MIN_PROGRESS

    def get_write_buffer_size(self) -> int:
        return self.waiting


def test_a_peer_that_reads_slowly_is_not_disconnected() -> None:
    async def test() -> None:
        transport = Slow()
        looks: list[int] = []
        stopped = asyncio.Event()
        stalled = WriteTimeout(transport, 0.01, stopped.set)  # type: ignore[arg-type]
        stalled.begin()

        def read() -> None:
            looks.append(transport.waiting)
            if len(looks) < 5:
                transport.waiting -= MIN_PROGRESS
                asyncio.get_running_loop().call_later(0.01, read)

        read()
        await stopped.wait()
        assert transport.waiting <= 9 * MIN_PROGRESS

    run(test())


def shapes() -> dict[str, dict[str, Any]]:
    one = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
    return {
        "inputs": {"inputs": [{**one, "name": f"x{i}"} for i in range(257)]},
        "outputs": {"inputs": [one], "outputs": [{"name": f"y{i}"} for i in range(257)]},
        "dimensions": {"inputs": [{**one, "shape": [1] * 1000}]},
        "elements": {"inputs": [{**one, "shape": [2**62, 2**62]}]},
        "a batch": {"inputs": [{**one, "shape": [10**9, 4]}]},
        "negative": {"inputs": [{**one, "shape": [-1, 4]}]},
        "depth": {"inputs": [{**one, "data": json.loads("[" * 500 + "]" * 500)}]},
    }


@pytest.mark.parametrize("what", shapes())
def test_impossible_shapes_are_refused_over_http(what: str) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            answer = await peer.ask("POST", INFER, json.dumps(shapes()[what]).encode())
            assert answer.status == 400, answer
            assert len(answer.body) < 1000

    run(test())


@pytest.mark.parametrize("shape", [[1] * 1000, [2**62, 2**62], [10**9, 4], [-1, 4]], ids=str)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_impossible_shapes_are_refused_over_grpc(shape: list[int], raw: bool) -> None:
    async def test() -> None:
        async with (
            serving() as (host, _),
            serve_grpc(host, LOOPBACK) as server,
            triton.InferenceServerClient(str(server.address)) as client,
        ):
            await eventually(lambda: host.progress()[0] == "serving")
            data = triton.InferInput("x", [1, 4], "FP32")
            data.set_data_from_numpy(np.ones((1, 4), np.float32))
            data.set_shape(shape)
            if not raw:
                data._raw_content = None
                data._input.contents.fp32_contents.extend([1, 1, 1, 1])
            with pytest.raises(InferenceServerException) as caught:
                await client.infer("m", [data])
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"

    run(test())


def test_grpc_closes_connections_over_the_limit() -> None:
    config = GrpcConfig(max_connections=2)

    async def test() -> None:
        async with serving() as (host, _), serve_grpc(host, LOOPBACK, config) as server, AsyncExitStack() as stack:
            peers = []
            for _ in range(5):
                reader, writer = await asyncio.open_connection(*server.address)
                stack.callback(writer.close)
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                peers.append(reader)
            ended = 0
            for reader in peers[2:]:
                with suppress(ConnectionError):
                    while await reader.read(1000):
                        pass
                ended += 1
            assert ended == 3
            assert not any(reader.at_eof() or reader.exception() for reader in peers[:2])

    run(test())
