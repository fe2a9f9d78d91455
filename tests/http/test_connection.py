"""A connection of the HTTP server, with a fake transport and a fake clock."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client.live import run
from clockwork.controller.shedding import Shed
from clockwork.frontend.body_quota import BodyQuota
from clockwork.host.reception import Reception
from clockwork.http.bodies import Bodies
from clockwork.http.config import HttpConfig
from clockwork.http.connection import LAST_CHANCE, HttpConnection, Port
from clockwork.http.exchange import CONTINUE, Exchange
from clockwork.http.replies import Reply, json_reply
from clockwork.http.streaming import Stream
from clockwork.units import KIB, MILLISECOND, SECOND, Nanos
from clockwork.wire.frame import uninitialised
from http_fakes import FakeTransport

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"
INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
START: Nanos = 1000 * SECOND


class Waits:
    """A request in the inbox."""

    def __init__(self) -> None:
        self.withdrawn = False

    def withdraw(self) -> bool:
        self.withdrawn = True
        return True


class Fixture:
    """A connection whose requests are served when `reply` is called."""

    def __init__(self, **config: Any) -> None:
        self.now: Nanos = START
        self.is_behind = False
        self.exchanges: list[Exchange] = []
        self.inboxed: list[Waits] = []
        self.handlers: list[Any] = []  #: the handlers of the requests in the inbox
        arrivals = SimpleNamespace(earliest_arrival=lambda transport, now, **named: now)
        reception = SimpleNamespace(
            clock=SimpleNamespace(now=lambda: self.now),
            arrivals=arrivals,
            is_behind=lambda now=None: self.is_behind,
            has_answered=lambda *key: True,
            put=self._put,
            check=lambda *args: Shed(None, SECOND, request_id="first"),
            refuses=lambda *args, **named: Shed(None, SECOND, request_id="first"),
            count_refused=lambda shed, *args: shed,
            backpressure=SimpleNamespace(is_needed=False),
        )
        self.config = HttpConfig(**config)
        port = Port(self._serve, cast(Reception, reception), self.config, BodyQuota(1 << 30), uninitialised)
        self.transport = FakeTransport()
        self.connection = HttpConnection(port)
        self.connection.connection_made(self.transport)

    async def _serve(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def _put(self, handle: Any, model: str, version: str = "") -> Waits:
        self.handlers.append(handle)
        self.inboxed.append(Waits())
        return self.inboxed[-1]

    def receive(self, data: bytes) -> None:
        self.connection.get_buffer(-1)[: len(data)] = data
        self.connection.buffer_updated(len(data))

    async def serve(self) -> Exchange:
        """Let the task of the next request run, and return the request."""
        await asyncio.sleep(0)
        return self.exchanges.pop(0)

    def expire(self) -> None:
        """Let the timer run."""
        self.connection._check_limit()

    @property
    def written(self) -> bytes:
        return b"".join(self.transport.written)


OK = Reply(200, [], [b"yes"])


@pytest.mark.parametrize("unread", [True, False])
def test_a_pipelined_request_counts_from_when_it_may_have_arrived(
    unread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clockwork.http.connection.may_have_unread", lambda transport: unread)

    async def test() -> None:
        fixture = Fixture()
        fixture.receive(LIVE * 2)  # the second waits, so reading is paused
        first = await fixture.serve()
        fixture.now += 50 * MILLISECOND
        first.reply(OK)
        second = await fixture.serve()
        assert second.arrived == START
        second.reply(OK)
        for arrived in (START if unread else fixture.now, fixture.now):
            fixture.receive(LIVE)
            third = await fixture.serve()
            assert third.arrived == arrived
            third.reply(OK)

    run(test())


def test_replies_are_sent_in_the_order_of_the_requests() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(LIVE * 3 + b"nonsense\r\n\r\n")
        for number in range(3):
            (await fixture.serve()).reply(json_reply(number))
        bodies = [part.partition(b"\r\n\r\n")[2] for part in fixture.transport.written]
        assert bodies[:3] == [b"0", b"1", b"2"]
        assert b"the bytes are not an HTTP/1.1 request" in bodies[3]
        assert fixture.transport.closed

    run(test())


def test_a_refused_request_with_a_malformed_body_has_one_reply() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(CHUNKED.replace(b"infer", b"no"))
        (await fixture.serve()).reply(OK)
        fixture.receive(b"no number\r\n")
        assert fixture.written.count(b"HTTP/1.1 ") == 1
        assert fixture.transport.closed

    run(test())


def test_a_malformed_body_of_a_request_in_progress_has_one_reply() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(CHUNKED.replace(b"infer", b"no"))
        await fixture.serve()
        fixture.receive(b"no number\r\n")
        assert fixture.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert fixture.written.count(b"HTTP/1.1 ") == 1
        assert fixture.transport.closed

    run(test())


def test_a_request_in_the_inbox_is_withdrawn_when_its_client_disconnects() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(INFER)
        assert not fixture.inboxed[0].withdrawn
        fixture.connection.connection_lost(None)
        assert fixture.inboxed[0].withdrawn

    run(test())


@pytest.mark.parametrize(
    ("data", "limit", "reply"),
    [(b"", "head_timeout", b""), (LIVE[:20], "head_timeout", b"HTTP/1.1 408 "), (LIVE, "keep_alive", b"")],
    ids=["no byte", "a part of a head", "idle"],
)
def test_a_silent_client_is_disconnected(data: bytes, limit: str, reply: bytes) -> None:
    async def test() -> None:
        fixture = Fixture()
        if data:
            fixture.receive(data)
        if data == LIVE:
            (await fixture.serve()).reply(OK)
            fixture.transport.written.clear()
        fixture.now += int(getattr(fixture.config, limit) * SECOND) - 1
        fixture.expire()
        assert not fixture.transport.closed
        fixture.now += 1
        fixture.expire()
        assert fixture.transport.closed
        assert fixture.written.startswith(reply)
        assert bool(fixture.written) == bool(reply)

    run(test())


def test_a_client_is_not_disconnected_because_the_server_was_stopped() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.now += 1000 * SECOND
        fixture.expire()
        assert not fixture.transport.closed
        fixture.now += LAST_CHANCE
        fixture.expire()
        assert fixture.transport.closed

    run(test())


def test_a_request_in_progress_has_no_limit_on_its_time() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(LIVE)
        exchange = await fixture.serve()
        fixture.now += 1000 * SECOND
        fixture.expire()
        assert not fixture.transport.closed
        exchange.reply(OK)
        assert fixture.written.startswith(b"HTTP/1.1 200 OK\r\n")

    run(test())


@pytest.mark.parametrize(
    "length",
    [b"%d \t ", b"%025d", b"99999999999999999%d"],
    ids=["white space", "leading zeros", "huge"],
)
def test_a_body_after_an_offer_is_no_request_however_its_length_is_written(length: bytes) -> None:
    async def test() -> None:
        fixture = Fixture()
        offer = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\n" + UPGRADE
        fixture.receive(offer + b"Content-Length: " + length % len(LIVE) + b"\r\n\r\n" + LIVE)
        assert [partial.args[0].method for partial in fixture.handlers] == ["POST"]
        fixture.handlers[0].args[0].reply(OK)
        assert len(fixture.handlers) == 1
        await asyncio.sleep(0)
        assert not fixture.exchanges

    run(test())


def test_trailers_are_not_added_to_the_headers() -> None:
    async def test() -> None:
        fixture = Fixture()
        trailers = b"0\r\nAuthorization: x\r\nExpect: 100-continue\r\n\r\n"
        fixture.receive(CHUNKED.replace(b"infer", b"no") + trailers + LIVE)
        exchange = await fixture.serve()
        assert dict(exchange.headers) == {b"host": b"here", b"transfer-encoding": b"chunked"}
        exchange.reply(OK)
        assert dict((await fixture.serve()).headers) == {b"host": b"here"}

    run(test())


def test_bytes_after_an_offer_that_are_no_request_are_refused() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(LIVE[:-2] + UPGRADE + b"\r\n" + b"GET / HTTP/1.1\r\n\r\n")
        (await fixture.serve()).reply(OK)
        assert b"has no header Host" in fixture.written
        assert fixture.transport.closed

    run(test())


def test_many_offers_in_one_read_are_ignored() -> None:
    async def test() -> None:
        fixture = Fixture()
        offer = b"GET / HTTP/1.0\r\nupgrade:a\r\nconnection:upgrade,keep-alive\r\n\r\n"
        number = 16 * KIB // len(offer)
        fixture.receive(offer * number)
        for _ in range(number):
            (await fixture.serve()).reply(OK)
        assert fixture.written.count(b" 200 OK\r\n") == number

    run(test())


def test_a_shed_request_whose_body_cannot_be_found_ends_the_connection() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.is_behind = True
        fixture.receive(CHUNKED[:-2] + UPGRADE + b"\r\n")
        assert fixture.written.startswith(b"HTTP/1.1 503 ")
        assert fixture.transport.closed

    run(test())


def test_a_request_of_a_client_that_does_not_read_is_not_shed_at_once() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(INFER)
        fixture.handlers.pop().args[0].reply(OK)
        fixture.transport.written.clear()
        fixture.is_behind = True
        fixture.connection.pause_writing()
        fixture.receive(INFER)
        assert not fixture.written
        assert fixture.handlers
        fixture.connection.connection_lost(None)

    run(test())


def test_reading_continues_after_a_reply_that_did_not_need_the_body() -> None:
    async def test() -> None:
        fixture = Fixture(piece=4)
        fixture.receive(CHUNKED.replace(b"infer", b"no") + b"5\r\nhello\r\n")
        assert fixture.transport.paused
        exchange = await fixture.serve()
        exchange.reply(OK)
        assert not fixture.transport.paused
        fixture.receive(b"0\r\n\r\n" + LIVE)
        assert (await fixture.serve()).method == "GET"
        assert not exchange.waiting

    run(test())


@pytest.mark.parametrize("endless", [b"T: " + b"x" * 99, b"t:x\r\n" * 20, b"1;" + b"x" * 99], ids=repr)
def test_a_body_has_a_limit_on_bytes_that_are_not_content(endless: bytes) -> None:
    async def test() -> None:
        fixture = Fixture(max_head=1000)
        begin = b"1;" if endless.startswith(b"1;") else b"0\r\n"
        fixture.receive(CHUNKED.replace(b"infer", b"no") + begin)
        exchange = await fixture.serve()
        received = 0
        while not fixture.transport.closed and received < 2000:
            fixture.receive(endless.removeprefix(b"1;"))
            received += len(endless)
        assert 1000 <= received < 1300
        assert len(exchange.headers) == 2
        assert fixture.written.startswith(b"HTTP/1.1 431 ")

    run(test())


def test_a_long_body_of_small_chunks_is_no_fault() -> None:
    async def test() -> None:
        fixture = Fixture(max_head=1000)
        fixture.receive(CHUNKED.replace(b"infer", b"no"))
        exchange = await fixture.serve()
        for _ in range(1000):
            fixture.receive(b"1\r\n")
            fixture.receive(b"x")
            fixture.receive(b"\r\n")
        assert exchange.waiting == 1000
        assert not fixture.transport.closed

    run(test())


def test_the_limit_on_heads_does_not_count_the_body_before_a_head() -> None:
    async def test() -> None:
        fixture = Fixture(max_head=200)
        fixture.receive(INFER.replace(b"Length: 2", b"Length: 1000") + bytes(600))
        fixture.handlers[0].args[0].reply(OK)
        fixture.receive(bytes(398) + LIVE[:18])
        assert not fixture.transport.closed
        fixture.receive(b"x" * 201)
        assert b"HTTP/1.1 431 " in fixture.written

    run(test())


def test_a_malformed_body_ends_a_stream_without_a_second_reply() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(CHUNKED.replace(b"infer", b"no"))
        stream = Stream(await fixture.serve(), Reply(200, [], []), 1)
        assert stream.send(b"piece")
        fixture.receive(b"no number\r\n")
        assert fixture.written.endswith(b"piece\r\n")
        assert fixture.transport.closed

    run(test())


@pytest.mark.parametrize("whole", [False, True])
def test_a_refused_request_that_waits_for_the_status_100_ends_the_connection(whole: bool) -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(CHUNKED.replace(b"infer", b"no")[:-2] + b"Expect: 100-continue\r\n\r\n")
        exchange = await fixture.serve()
        if whole:
            fixture.receive(b"0\r\n\r\n")
        exchange.reply(OK)
        assert (b"connection: close" in fixture.written) == (not whole)
        assert fixture.transport.closed == (not whole)

    run(test())


def test_a_client_that_offers_another_protocol_may_wait_for_the_status_100() -> None:
    async def test() -> None:
        fixture = Fixture()
        head = b"POST /v2/no HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
        fixture.receive(head + UPGRADE + b"\r\n")
        receiving = asyncio.create_task(_received(await fixture.serve()))
        await asyncio.sleep(0)
        assert fixture.written == CONTINUE
        fixture.receive(b"hello")
        assert await receiving == b"hello"

    run(test())


def test_a_client_of_http_1_0_gets_no_status_100() -> None:
    async def test() -> None:
        fixture = Fixture()
        fixture.receive(b"POST /v2/no HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        receiving = asyncio.create_task(_received(await fixture.serve()))
        await asyncio.sleep(0)
        assert not fixture.written
        fixture.receive(b"hello")
        assert await receiving == b"hello"

    run(test())


async def _received(exchange: Exchange) -> bytes:
    config = HttpConfig()
    bodies = Bodies(config, BodyQuota(config.max_held))
    with bodies.keeping() as kept:
        return bytes(await bodies.receive(exchange, dict(exchange.headers), kept))
