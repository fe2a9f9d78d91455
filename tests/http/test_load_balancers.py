"""Requests of load balancers, of HTTP/1.0 clients, and of clients that break HTTP's rules."""

import json

import pytest

from client.live import run
from http_raw import Peer, row, served

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


# ------------------------------------------------------------------------------------------------ rules of RFC 9112

GET = "GET /v2/health/live HTTP/1.1\r\n"
POST = "POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\n"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n\r\n"

BROKEN = {
    "no host": (f"{GET}\r\n", "no header Host"),
    "two hosts": (f"{GET}Host: here\r\nHost: here\r\n\r\n", "more than one header Host"),
    "a host with a space": (f"{GET}Host: he re\r\n\r\n", "the header Host"),
    "a host with a path": (f"{GET}Host: here/there\r\n\r\n", "the header Host"),
    "no final chunked": (f"{POST}Transfer-Encoding: chunked, gzip\r\n\r\n", ""),
    "an unknown coding": (f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n", "Transfer-Encoding"),
    "identity": (f"{POST}Transfer-Encoding: identity\r\n\r\n", "Transfer-Encoding"),
    "coding and length": (f"{POST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
    "a length that is no number": (f"{POST}Content-Length: x\r\n\r\n", ""),
    "two lengths": (f"{POST}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", ""),
    "a chunk size that is no number": (f"{CHUNKED}zz\r\n", "chunks"),
    "a negative chunk size": (f"{CHUNKED}-1\r\n", "chunks"),
    "a chunk longer than its size": (f"{CHUNKED}1\r\nabc\r\n", "chunks"),
    "a chunk size that overflows": (f"{CHUNKED}ffffffffffffffffff\r\n", "chunks"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_request_that_breaks_a_rule_of_http_is_answered_400(case: str) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            request, reason = BROKEN[case]
            peer.writer.write(request.encode())
            answer = await peer.answer()
            assert (answer.status, answer.headers["connection"]) == (400, "close")
            assert reason in answer.json()["error"]
            assert await peer.reader.read() == b""

    run(test())


@pytest.mark.parametrize("host", ["here", "here:8000", "[::1]:8000", "127.0.0.1", "", "a_b.example.org."])
def test_every_valid_host_is_accepted(host: str) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            for _ in range(2):
                peer.writer.write(f"{GET}Host: {host}\r\n\r\n".encode())
                assert (await peer.answer()).status == 200

    run(test())


@pytest.mark.parametrize("broken", ["rubbish\r\n\r\n", f"{CHUNKED}zz\r\n"])
def test_requests_before_a_broken_one_are_answered_first(broken: str) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            body = row()
            request = f"{POST}Content-Length: {len(body)}\r\n\r\n".encode() + body
            peer.writer.write(2 * request + broken.encode())
            assert [(await peer.answer()).status for _ in range(3)] == [200, 200, 400]
            assert await peer.reader.read() == b""

    run(test())
