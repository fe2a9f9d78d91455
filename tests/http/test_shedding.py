"""Requests that are recognised and refused without the parser."""

import pytest

from clockwork.controller.shedding import Shed
from clockwork.host.reception import Key
from clockwork.http.shedding import (
    MAX_PATH,
    MAX_PATHS,
    NO_MODEL,
    ShedReplies,
    model_of,
    posted_path,
    remember,
    stated_slo,
    whole_request,
)
from clockwork.units import MILLISECOND, ms, us

HEAD = b"POST /v2/models/a/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n"


def test_a_whole_request_is_recognised() -> None:
    assert whole_request(HEAD + b"body") == b"/v2/models/a/infer"
    assert whole_request(HEAD.replace(b"Length: 4", b"length:\t4 ") + b"body") == b"/v2/models/a/infer"
    binary = HEAD.replace(b"Host: here", b"Inference-Header-Content-Length: 2")
    assert whole_request(binary + b"body") == b"/v2/models/a/infer"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"bod",
        HEAD + b"body+",
        HEAD[:-2],
        b"GET" + HEAD[4:] + b"body",
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"body",
        HEAD.replace(b"Host: here", b"Transfer-Encoding: chunked") + b"body",
        HEAD.replace(b"Host: here", b"Connection: close") + b"body",
        HEAD.replace(b"Host: here", b"Expect: 100-continue") + b"body",
        HEAD.replace(b"Host: here", b"Upgrade: h2c") + b"body",
        HEAD.replace(b"Host: here", b"Content-Length: 4") + b"body",
        HEAD.replace(b"Host: here", b"Content-Length : 9") + b"body",
        HEAD.replace(b"Host: here", b" folded: 1") + b"body",
        HEAD.replace(b"Host: here", b"a: b\nTransfer-Encoding: chunked") + b"body",
        HEAD.replace(b"Host: here", b"a: b\rTransfer-Encoding: chunked") + b"body",
        HEAD.replace(b"Length: 4", b"Length: +4") + b"body",
        HEAD.replace(b"Length: 4", b"Length: 4, 4") + b"body",
        HEAD.replace(b"Content-Length: 4\r\n", b""),
        HEAD.replace(b"POST ", b"POST  ") + b"body",
        b"",
    ],
)
def test_an_ambiguous_request_is_left_to_the_parser(data: bytes) -> None:
    assert whole_request(data) is None


def test_the_path_of_a_post_request_is_known_from_its_first_line() -> None:
    assert posted_path(HEAD) == b"/v2/models/a/infer"
    assert posted_path(b"GET" + HEAD[4:]) == b""
    assert posted_path(HEAD[:30]) == b""


def test_an_inference_is_recognised_by_its_path() -> None:
    assert model_of("POST", "/v2/models/a/infer") == ("a", "")
    assert model_of("POST", "/v2/models/a/versions/1/infer") == ("a", "1")
    assert model_of("GET", "/v2/models/a/infer") == NO_MODEL
    assert model_of("POST", "/v2/models/a/ready") == NO_MODEL
    assert model_of("POST", "/v2/repository/models/a/load") == NO_MODEL


def test_the_table_of_paths_has_a_limit_and_so_have_its_paths() -> None:
    paths: dict[bytes, Key] = {}
    remember(paths, b"/".ljust(MAX_PATH, b"a"), ("a", ""))
    remember(paths, b"/".ljust(MAX_PATH + 1, b"a"), ("a", ""))
    assert len(paths) == 1
    for number in range(MAX_PATHS + 1):
        remember(paths, b"/%d" % number, ("a", ""))
    assert len(paths) == MAX_PATHS
    assert b"/0" not in paths, "the oldest path is forgotten"


def test_a_reply_is_encoded_once_for_each_wait() -> None:
    replies, date = ShedReplies(), b"date: today\r\n"
    first = replies.bytes(Shed(40 * MILLISECOND, 40 * MILLISECOND, request_id="a-1"), date)
    assert b"etry" not in replies.bytes(Shed(None, None, 50 * MILLISECOND, request_id="a-2"), date)
    again = replies.bytes(Shed(40 * MILLISECOND + 1, 40 * MILLISECOND, request_id="a-3"), date)
    assert again.replace(b"clockwork-request-id: a-3", b"clockwork-request-id: a-1") == first
    assert len(replies._encoded) == 2
    head, _, body = first.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\ndate: today\r\n")
    assert b"retry-after: 1\r\n" in head + b"\r\n"
    assert b"content-length: %d" % len(body) in head
    assert b"the server is overloaded: requests wait 40 ms before it handles them" in body
    assert first.count(b"clockwork-request-id") == 1
    assert b"tomorrow" in replies.bytes(Shed(40 * MILLISECOND, 1), b"date: tomorrow\r\n")


@pytest.mark.parametrize(
    ("body", "slo"),
    [
        (b'{"parameters": {"timeout": 5000}}', ms(5)),
        (b'{"parameters": {"slo_ms" : 12.5, "timeout":90000}}', us(12_500)),
        (b'{"parameters": {"timeout": 0}}', None),
        (b'{"parameters": {"slo_ms": "12"}}', None),
        (b'{"inputs": []}', None),
        (b" " * 1100 + b'"timeout": 5', None),
    ],
)
def test_the_slo_is_found_at_the_beginning_of_the_json(body: bytes, slo: int | None) -> None:
    assert stated_slo(HEAD + body) == slo
