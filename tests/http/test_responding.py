"""How a reply is written, with a fake connection."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from client.live import run
from clockwork.http.asgi import Reply
from clockwork.http.responding import MAX_JOINED, respond


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(bytes(data))

    def writelines(self, parts: list[Any]) -> None:
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def a_cycle(transport: Transport, method: str = "GET", *, keep_alive: bool = True) -> Any:
    return SimpleNamespace(
        scope={"method": method},
        transport=transport,
        flow=SimpleNamespace(write_paused=False),
        disconnected=False,
        keep_alive=keep_alive,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        waiting_for_100_continue=True,
        response_started=False,
        response_complete=False,
        on_response=lambda: None,
    )


def the_reply(**more: Any) -> Reply:
    return Reply(200, [(b"x", b"y")], [b"some", memoryview(b" parts")], **more)


HEAD = b"HTTP/1.1 200 OK\r\ndate: today\r\nx: y\r\n"


def test_head_and_body_are_one_write() -> None:
    async def test() -> None:
        transport = Transport()
        cycle = a_cycle(transport)
        await respond(cycle, the_reply())
        assert transport.written == [HEAD + b"content-length: 10\r\n\r\nsome parts"]
        assert cycle.response_complete
        assert not transport.closed
        await respond(a_cycle(transport), Reply(200, [], [b"z" * MAX_JOINED, b"z"]))
        assert transport.written[1].endswith(b"content-length: %d\r\n\r\n" % (MAX_JOINED + 1) + b"z" * (MAX_JOINED + 1))

    run(test())


def test_a_reply_to_head_has_no_body() -> None:
    async def test() -> None:
        transport = Transport()
        await respond(a_cycle(transport, "HEAD"), the_reply())
        assert transport.written == [HEAD + b"content-length: 10\r\n\r\n"]

    run(test())


@pytest.mark.parametrize("by_server", [True, False], ids=["by the server", "by the client"])
def test_connection_close_closes_the_connection(by_server: bool) -> None:
    async def test() -> None:
        transport = Transport()
        reply = Reply(503, [(b"connection", b"close")] if by_server else [], [b"no"])
        await respond(a_cycle(transport, keep_alive=by_server), reply)
        assert transport.written[0].count(b"connection: close\r\n") == 1
        assert transport.closed

    run(test())


def test_nothing_is_written_to_a_client_that_disconnected() -> None:
    async def test() -> None:
        transport = Transport()
        cycle = a_cycle(transport)

        async def drain() -> None:
            transport.closed = True

        cycle.flow = SimpleNamespace(write_paused=True, drain=drain)
        await respond(cycle, the_reply())
        assert not transport.written
        assert not cycle.response_complete

    run(test())
