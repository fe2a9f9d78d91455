"""Bodies that are received past the parser: `clockwork.http.receiving`."""

import asyncio
import gc
import weakref
from typing import Any, ClassVar

import numpy as np
import pytest

from client.live import run
from clockwork.frontend.body_quota import BodyQuota
from clockwork.http.config import HttpConfig
from clockwork.http.presence import ClientGoneError
from clockwork.http.receiving import MIN_LARGE, LargeBody
from clockwork.messages.commands import Answer
from clockwork.net.arrival import Arrivals
from clockwork.oip.failures import RequestFailedError
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import PendingRequest
from clockwork.units import MILLISECOND, SECOND, Nanos
from clockwork.wire.frame import uninitialised
from http_raw import Peer, binary_row, connected, served

WIDE = "/v2/models/wide/infer"
COLUMNS = 1 << 20
SENT = np.arange(COLUMNS, dtype=np.float32)
BODY, LENGTH = binary_row(SENT.tobytes(), (1, COLUMNS))
SIZE = len(BODY)


def head(path: str = WIDE, **more: Any) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Inference-Header-Content-Length: {LENGTH}"]
    headers = {"Content-Length": SIZE, **more}
    return "\r\n".join(
        [*lines, *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()), "", ""]
    ).encode()


async def echoed(peer: Peer) -> bool:
    answer = await peer.answer()
    at = int(answer.headers["inference-header-content-length"])
    return answer.status == 200 and np.array_equal(np.frombuffer(answer.body, np.float32, offset=at), SENT)


async def in_pieces(peer: Peer, data: bytes, *cuts: int) -> None:
    """Send the data in pieces that end at the cuts, as far as possible each in a packet of its own."""
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        peer.writer.write(data[begin:end])
        await peer.writer.drain()
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "cut", [0, 1, LENGTH, MIN_LARGE, SIZE - 1], ids=["head", "byte", "json", "64 KiB", "all but one"]
)
def test_a_body_may_arrive_in_any_pieces(cut: int) -> None:
    async def test() -> None:
        async with served(EchoScheduler(), models=("wide.onnx",)) as (peer, *_):
            for _ in range(2):  # the connection stays usable
                await in_pieces(peer, head() + BODY, len(head()) + cut)
                assert await echoed(peer)

    run(test())


def test_large_requests_may_be_pipelined() -> None:
    async def test() -> None:
        async with served(EchoScheduler(), models=("wide.onnx",)) as (peer, *_):
            live = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"
            peer.writer.write((head() + BODY + live) * 3)
            for _ in range(3):
                assert await echoed(peer)
                assert (await peer.answer()).json() == {"live": True}

    run(test())


def test_the_body_of_a_refused_request_is_discarded() -> None:
    async def test() -> None:
        config = HttpConfig(max_held=2 * SIZE)
        async with served(EchoScheduler(), models=("wide.onnx",), http=config) as (peer, *_):
            for path, status in (("/v2/nothing", 404), ("/v2/models/nobody/infer", 404)) * 3:
                await in_pieces(peer, head(path) + BODY, 1000)
                assert (await peer.answer()).status == status
            peer.writer.write(head() + BODY)
            assert await echoed(peer)

    run(test())


def test_a_client_that_expects_100_continue_gets_it() -> None:
    async def test() -> None:
        async with served(EchoScheduler(), models=("wide.onnx",)) as (peer, *_):
            peer.writer.write(head(Expect="100-continue"))
            assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            peer.writer.write(BODY)
            assert await echoed(peer)

    run(test())


def test_a_large_body_that_stops_is_given_up() -> None:
    async def test() -> None:
        async with served(models=("wide.onnx",), http=HttpConfig(body_timeout=0.05)) as (peer, *_):
            peer.writer.write(head() + BODY[: 2 * MIN_LARGE])
            answer = await peer.answer()
            assert answer.status == 408
            assert "too slowly" in answer.json()["error"]

    run(test())


def test_large_bodies_together_have_a_limit_and_release_their_memory() -> None:
    async def test() -> None:
        config = HttpConfig(max_held=SIZE + SIZE // 2)
        async with served(EchoScheduler(), models=("wide.onnx",), http=config) as (peer, address, *_):
            peer.writer.write(head() + BODY[: SIZE - 1])
            async with connected(address) as other:

                async def refused() -> bool:
                    other.writer.write(head() + BODY)
                    return (await other.answer()).status == 503

                while not await refused():  # until the first body is nearly complete
                    pass
            peer.writer.write(BODY[SIZE - 1 :])
            assert await echoed(peer)
            async with connected(address) as another:
                another.writer.write(head() + BODY)
                assert await echoed(another)

    run(test())


def test_a_disconnect_during_a_body_releases_its_memory() -> None:
    async def test() -> None:
        config = HttpConfig(max_held=SIZE + SIZE // 2)
        async with served(EchoScheduler(), models=("wide.onnx",), http=config) as (peer, address, *_):
            for _ in range(4):
                async with connected(address) as other:
                    await in_pieces(other, head() + BODY[: SIZE // 2])
            peer.writer.write(head() + BODY)
            assert await echoed(peer)

    run(test())


def test_a_body_is_returned_once_it_is_whole() -> None:
    async def test() -> None:
        held = BodyQuota(100)
        body = LargeBody(10, b"abc", held)
        taking = asyncio.ensure_future(body.take(10.0))
        await asyncio.sleep(0)
        rest = body.rest()
        rest[:7] = b"defghij"
        assert not body.received(3)
        assert body.received(4)
        assert bytes(await taking) == b"abcdefghij"
        held.add(100)  # nothing is held for it any more

    run(test())


def test_the_body_that_exceeds_the_quota_is_given_up_and_its_rest_is_discarded() -> None:
    async def test() -> None:
        held = BodyQuota(15)
        first, second = LargeBody(10, b"12345678", held), LargeBody(10, b"1", held)
        assert not second.received(7)
        with pytest.raises(RequestFailedError, match="limit for request bodies in memory is reached"):
            await second.take(10.0)
        assert len(second.rest()) == 2
        assert second.rest().obj is not first.rest().obj
        assert first.received(2)
        assert len(await first.take(10.0)) == 10

    run(test())


def test_the_memory_of_a_given_up_body_is_freed_at_once() -> None:
    references = []

    def allocate(nbytes: int) -> Any:
        memory = uninitialised(nbytes)
        references.append(weakref.ref(memory))
        return memory

    async def test() -> None:
        body = LargeBody(10, b"abc", BodyQuota(100), allocate)
        taking = asyncio.ensure_future(body.take(10.0))
        await asyncio.sleep(0)
        body.end(ClientGoneError())
        with pytest.raises(ClientGoneError):
            await taking
        assert references[0]() is None

    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()


def test_a_body_that_was_given_up_raises_the_reason() -> None:
    async def test() -> None:
        body = LargeBody(10, b"", BodyQuota(100))
        body.end(ClientGoneError())
        with pytest.raises(ClientGoneError):
            await body.take(10.0)

    run(test())


class Notes(EchoScheduler):
    """Echoes, and records the time left to the deadline of each request."""

    name: ClassVar[str] = "notes"

    def __init__(self) -> None:
        super().__init__()
        self.left: list[Nanos] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.left.append(request.deadline - now)
        return super().infer(now, request)


def test_a_body_that_was_given_up_leaves_no_reference_cycle() -> None:
    async def test() -> None:
        body = LargeBody(10, b"", BodyQuota(100))
        reference = weakref.ref(body)
        taking = asyncio.ensure_future(body.take(60.0))
        await asyncio.sleep(0)
        body.end(ClientGoneError())
        await asyncio.wait((taking,))
        assert isinstance(taking.exception(), ClientGoneError)
        del body, taking
        await asyncio.sleep(0)
        assert reference() is None, "a traceback keeps the body, and with it the connection"

    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()


def test_a_deadline_counts_from_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the first byte had waited 50 ms when it was read."""
    arrival = Arrivals.earliest_arrival
    monkeypatch.setattr(Arrivals, "earliest_arrival", lambda *args, **named: arrival(*args, **named) - 50 * MILLISECOND)

    async def test() -> None:
        notes = Notes()
        async with served(notes, models=("wide.onnx",)) as (peer, *_):
            request, length = binary_row(SENT.tobytes(), (1, COLUMNS), slo_ms=10_000)
            lines = ["POST " + WIDE + " HTTP/1.1", "Host: here", f"Inference-Header-Content-Length: {length}"]
            peer.writer.write("\r\n".join([*lines, f"Content-Length: {len(request)}", "", ""]).encode() + request)
            assert await echoed(peer)
            assert notes.left[0] <= 10 * SECOND - 50 * MILLISECOND

    run(test())
