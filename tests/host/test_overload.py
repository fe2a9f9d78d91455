"""Responses of an overloaded server: the event loop of a live controller stands still, or is flooded."""

import asyncio
import socket
import time
from typing import Any

import pytest

from client.live import run
from clockwork.controller.shedding import SEED_COST, Shed
from clockwork.host.inbox import PIECE
from clockwork.http.config import HttpConfig
from clockwork.messages.actions import Infer
from clockwork.messages.link import ROLE_CLIENT, Hello, Ping, Pong, Welcome
from clockwork.messages.requests import CancelRequest, InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.units import ms
from clockwork.wire.codec import decode_response
from clockwork.wire.codec import encode as encoded
from clockwork.wire.frame import FrameReader, encode_frame, preamble
from http_raw import connected, eventually, row, served

ROOM = PIECE // SEED_COST
SPEC = spec("x", "FP32", (1, 4))


def stand_still(milliseconds: int) -> None:
    """Block the event loop."""
    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        pass


def test_a_request_that_waited_unread_past_its_deadline_is_not_served_over_http() -> None:
    async def test() -> None:
        async with served() as (peer, address, *_):
            assert (await peer.ask("POST", "/v2/models/m/infer", row())).status == 200
            with socket.create_connection(address) as client:
                body = row(parameters={"slo_ms": 100})
                head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
                client.setblocking(False)
                await asyncio.sleep(0)
                client.send(head.encode() + body)
                stand_still(300)
                status = int((await asyncio.get_running_loop().sock_recv(client, 65536)).split()[1])
                assert status in (503, 504)

    run(test())


@pytest.mark.parametrize("first", [0, 1, 5_000, 40_000])
@pytest.mark.parametrize("size", [100, 40_000])
def test_a_request_that_is_refused_by_its_head_leaves_the_connection_in_order(first: int, size: int) -> None:
    """The body arrives in two pieces, the first with the head; the next request is served."""

    async def test() -> None:
        async with served() as (peer, _, host, _):
            reception, is_behind, refuses = host.reception, host.reception.is_behind, host.reception.refuses
            reception.is_behind = lambda now=None: True  # type: ignore[method-assign]
            reception.refuses = lambda *args, **kwargs: Shed(ms(1), ms(5))  # type: ignore[method-assign]
            body = bytes(size)
            head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n"
            peer.writer.write(head.encode() + body[:first])
            answer = await peer.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            reception.is_behind, reception.refuses = is_behind, refuses  # type: ignore[method-assign]
            peer.writer.write(body[first:])
            assert (await peer.ask("POST", "/v2/models/m/infer", row())).status == 200

    run(test())


class Client:
    """A client of the native protocol that records its responses."""

    def __init__(self) -> None:
        self.heard: dict[int, InferResponse] = {}

    async def connect(self, address: Any) -> Connection:
        self.connection = await dial(
            address,
            Hello(ROLE_CLIENT, "test", "test", "", ""),
            decode=decode_response,
            on_message=self._heard,
            on_closed=lambda *_: None,
        )
        return self.connection

    def _heard(self, connection: Connection, message: Any, payload: Any) -> None:
        assert message.id not in self.heard, "answered twice"
        self.heard[message.id] = message

    def ask(self, number: int, slo: int) -> None:
        self.connection.send(InferRequest(number, "m", (SPEC,), slo), (bytes(16),))


async def next_message(client: socket.socket, reader: FrameReader) -> Any:
    """Return the next message that does not belong to the heartbeat."""
    while True:
        data = await asyncio.get_running_loop().sock_recv(client, 65536)
        reader.get_buffer()[: len(data)] = data
        for header, _ in reader.buffer_updated(len(data)):
            message = decode_response(header)
            if not isinstance(message, Ping | Pong):
                return message


def test_a_request_that_waited_unread_past_its_deadline_is_not_served_natively() -> None:
    async def test() -> None:
        async with served() as (_, _, host, worker):
            with socket.create_connection(host.client_address) as client:
                client.setblocking(False)
                hello = encode_frame(encoded(Hello(ROLE_CLIENT, "test", "test", "", "")))
                client.send(b"".join([preamble(), *hello]))
                reader = FrameReader()
                assert isinstance(await next_message(client, reader), Welcome)
                client.send(b"".join(encode(1)))
                assert (await next_message(client, reader)).status == Status.SUCCESS
                executed = sum(isinstance(action, Infer) for action in worker.seen)
                client.send(b"".join(encode(2, ms(100))))
                stand_still(300)
                answer = await next_message(client, reader)
                assert (answer.id, answer.status) in (
                    (2, Status.TIMEOUT),
                    (2, Status.CONTROLLER_COULD_NOT_START_IN_TIME),
                )
                assert sum(isinstance(action, Infer) for action in worker.seen) == executed

    run(test())


def test_a_flood_on_one_connection_is_answered_once_each_and_partly_refused_at_once() -> None:
    """One read brings more requests than can wait within their SLO, at the assumed initial cost."""
    count = 4 * ROOM + int(ms(20) // SEED_COST) + 200

    async def test() -> None:
        async with served(max_pending=100_000, max_client_pending=100_000) as (_, _, host, _):
            client = Client()
            await client.connect(host.client_address)
            for number in range(count):
                client.ask(number, ms(20))
            await eventually(lambda: len(client.heard) == count)
            by_status = [response.status for response in client.heard.values()]
            shed = [r for r in client.heard.values() if r.message.startswith("the server is overloaded")]
            assert shed, by_status
            assert all(response.retry_after for response in shed)
            assert len({response.request_id for response in client.heard.values()}) == count
            tally = host.description().tally.of("m")
            assert sum(tally.answers.values()) == count
            client.connection.close("done")

    run(test())


def test_a_request_that_waits_can_be_cancelled_and_a_client_that_left_is_forgotten() -> None:
    async def test() -> None:
        async with served() as (_, _, host, _):
            client = Client()
            await client.connect(host.client_address)
            frames = [b"".join(encode(number)) for number in range(60)]
            assert len(frames) > ROOM
            client.connection._transport.write(b"".join(frames) + b"".join(cancel(59)))
            await eventually(lambda: len(client.heard) == 59)
            assert 59 not in client.heard
            await asyncio.sleep(0)
            assert len(client.heard) == 59
            client.connection._transport.write(b"".join(frames))
            client.connection.abort("gone")
            await eventually(lambda: not len(host._native_inbox))
            assert host.reception.inbox.shedder.waiting == 0

    run(test())


def test_unknown_model_names_are_not_remembered() -> None:
    async def test() -> None:
        async with served() as (_, _, host, _):
            client = Client()
            await client.connect(host.client_address)
            client.ask(1, ms(10_000))
            client.connection.send(InferRequest(2, "nobody's", (SPEC,), ms(10_000)), (bytes(16),))
            await eventually(lambda: len(client.heard) == 2)
            assert client.heard[1].status == Status.SUCCESS
            assert host.reception.has_answered("m")
            assert not host.reception.has_answered("nobody's")
            client.connection.close("done")

    run(test())


def test_a_connection_is_closed_if_no_request_follows_a_first_refused_one() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(keep_alive=0)) as (peer, address, host, _):
            assert (await peer.ask("POST", "/v2/models/m/infer", row())).status == 200
            async with connected(address) as second:  # from now on the path is known
                assert (await second.ask("POST", "/v2/models/m/infer", row())).status == 200
            async with connected(address) as third:
                host.reception.inbox.shedder.urgent += 100_000
                assert (await third.ask("POST", "/v2/models/m/infer", row())).status == 503
                host.reception.inbox.shedder.urgent -= 100_000
                assert await asyncio.wait_for(third.reader.read(), 10) == b""

    run(test())


def encode(number: int, slo: int = ms(10_000)) -> list[Any]:
    return encode_frame(encoded(InferRequest(number, "m", (SPEC,), slo)), (bytes(16),))


def cancel(number: int) -> list[Any]:
    return encode_frame(encoded(CancelRequest(number)))
