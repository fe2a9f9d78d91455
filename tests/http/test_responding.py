"""How a reply is written, with a fake connection."""

import asyncio
from typing import Any

import pytest

from client.live import run
from clockwork.http.exchange import MAX_JOINED
from clockwork.http.replies import Reply
from clockwork.http.responding import DateHeader
from clockwork.units import SECOND
from http_fakes import FakeConnection


def the_reply(**more: Any) -> Reply:
    return Reply(200, [(b"x", b"y")], [b"some", memoryview(b" parts")], **more)


HEAD = b"HTTP/1.1 200 OK\r\ndate: today\r\nx: y\r\n"


def test_head_and_body_are_one_write() -> None:
    async def test() -> None:
        connection = FakeConnection()
        exchange = connection.exchange()
        await exchange.respond(the_reply())
        written = connection.transport.written
        assert written == [HEAD + b"content-length: 10\r\n\r\nsome parts"]
        assert connection.ended == [exchange]
        assert exchange.is_replied
        await connection.exchange().respond(Reply(200, [], [b"z" * MAX_JOINED, b"z"]))
        assert written[1].endswith(b"content-length: %d\r\n\r\n" % (MAX_JOINED + 1) + b"z" * (MAX_JOINED + 1))
        assert not connection.transport.closed

    run(test())


def test_a_reply_to_head_has_no_body() -> None:
    async def test() -> None:
        connection = FakeConnection()
        await connection.exchange("HEAD").respond(the_reply())
        assert connection.transport.written == [HEAD + b"content-length: 10\r\n\r\n"]

    run(test())


@pytest.mark.parametrize("by_server", [True, False], ids=["by the server", "by the client"])
def test_connection_close_closes_the_connection(by_server: bool) -> None:
    async def test() -> None:
        connection = FakeConnection()
        exchange = connection.exchange()
        exchange.keep_alive = by_server
        await exchange.respond(Reply(503, [(b"connection", b"close")] if by_server else [], [b"no"]))
        assert connection.transport.written[0].count(b"connection: close\r\n") == 1
        assert connection.transport.closed

    run(test())


def test_nothing_is_written_to_a_client_that_disconnected() -> None:
    async def test() -> None:
        connection = FakeConnection()
        connection.drained = asyncio.get_running_loop().create_future()
        exchange = connection.exchange()
        responding = asyncio.ensure_future(exchange.respond(the_reply()))
        await asyncio.sleep(0)
        connection.transport.closed = True
        connection.drained.set_result(None)
        await responding
        assert not connection.transport.written
        assert not exchange.is_replied

    run(test())


def test_the_date_changes_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.http.responding.monotonic_epoch", lambda: 784_111_777 * SECOND)  # RFC 9110, 5.6.7
    date = DateHeader()
    first = date.line(0)
    assert first == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert date.line(SECOND - 1) is first
    assert date.line(SECOND) == b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
