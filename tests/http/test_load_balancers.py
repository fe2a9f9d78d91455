"""Requests of load balancers, of HTTP/1.0 clients, and of clients that break HTTP's rules."""

import json

import pytest

from client.live import run
from http_raw import Peer, served

PROBED = ("/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/m", "/v2/models/m/ready", "/v2/models/m/config")


@pytest.mark.parametrize("path", PROBED)
def test_head_is_answered_as_get_without_a_body(path: str) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            got = await peer.ask("GET", path)
            peer.writer.write(f"HEAD {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            head = (await peer.reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 200")
            assert f"content-length: {len(got.body)}\r\n" in head
            assert (await peer.ask("GET", path)).body == got.body  # no byte followed the head

    run(test())


def test_head_of_an_inference_is_not_allowed() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            peer.writer.write(b"HEAD /v2/models/m/infer HTTP/1.1\r\nHost: here\r\n\r\n")
            head = (await peer.reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 405")
            assert "allow: post\r\n" in head
            answer = await peer.ask("POST", "/v2/health/live")
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")

    run(test())


async def old(peer: Peer, lines: str = "") -> dict[str, str]:
    peer.writer.write(f"GET /v2/health/live HTTP/1.0\r\n{lines}\r\n".encode())
    answer = await peer.answer()
    assert (answer.status, json.loads(answer.body)) == (200, {"live": True})
    return answer.headers


def test_an_http_1_0_connection_stays_open_if_the_client_asks_for_that() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            for _ in range(3):
                assert (await old(peer, "Connection: Keep-Alive\r\n"))["connection"] == "keep-alive"
            assert (await old(peer))["connection"] == "close"
            assert await peer.reader.read() == b""

    run(test())
