"""The files of the dashboard and its stream of snapshots, over HTTP."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from client.live import LOOPBACK, controller, run, serving
from clockwork.access import Access, Tokens
from clockwork.dashboard.assets import POLICY, TYPES, assets
from clockwork.http.config import HttpConfig
from clockwork.http.replies import Reply
from clockwork.http.server import serving_http
from clockwork.http.streaming import Stream
from clockwork.messages.commands import Answer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.status import Status
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos
from dashboard.streams import EVENTS, begin, chunk, head, snapshot
from http_fakes import FakeConnection
from http_raw import Peer, connected, row, served

INFER = "/v2/models/m/infer"
READER = "a-token-for-inference"


def test_the_page_has_a_strict_policy_and_its_files_load_nothing_from_elsewhere() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            page = await peer.ask("GET", "/")
            assert page.status == 200
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            for name in assets():
                answer = await peer.ask("GET", f"/dashboard/{name}")
                assert answer.status == 200
                assert answer.headers["content-security-policy"] == POLICY
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["content-type"] == TYPES[name[name.rfind(".") :]]
                text = answer.body.decode()
                assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|[\"'(]//", text), name

    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none';")
    run(test())


def test_the_page_has_no_inline_script_or_style_and_only_relative_addresses() -> None:
    page = assets()["index.html"].content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", page)
    addresses = re.findall(r"\b(?:src|href)=\"([^\"]*)\"", page)
    assert len(addresses) > 4
    for address in addresses:
        assert address.startswith(("#", "dashboard/")), address
        assert address.startswith("#") or address.removeprefix("dashboard/") in assets()
    for name, asset in assets().items():
        text = asset.content.decode()
        if name.endswith(".js"):
            assert not re.search(r"[\"'`]/(?:v2|dashboard)", text), f"{name} has an absolute path"
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name
            for imported in re.findall(r"from \"([^\"]+)\"", text):
                assert imported.removeprefix("./") in assets(), f"{name} imports {imported}"


def test_a_file_is_sent_again_only_if_it_has_changed_and_head_has_no_body() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            for path in ("/", "/dashboard/main.js"):
                first = await peer.ask("GET", path)
                assert first.headers["cache-control"] == "no-cache"
                peer.say("GET", path, If_None_Match=f'"other", W/{first.headers["etag"]}')
                status, headers = await head(peer)
                assert (status, headers["etag"]) == (304, first.headers["etag"])
                assert "content-length" not in headers
                peer.say("HEAD", path)
                status, headers = await head(peer)
                assert (status, headers["content-length"]) == (200, str(len(first.body)))
                assert (await peer.ask("GET", path, If_None_Match='"other"')).body == first.body
            assert (await peer.ask("POST", "/")).status == 405

    run(test())


@pytest.mark.parametrize("name", ["nothing.js", "..", "../feed.py", "%2e%2e%2ffeed.py", "__init__.py", ""])
def test_only_the_files_of_the_page_are_served(name: str) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            assert (await peer.ask("GET", f"/dashboard/{name}")).status == 404

    run(test())


def test_without_a_dashboard_its_paths_are_unknown() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(dashboard=False)) as (peer, *_):
            for path in ("/", "/dashboard/main.js", EVENTS):
                assert (await peer.ask("GET", path)).status == 404

    run(test())


def test_with_tokens_the_files_need_none_and_the_snapshots_need_one() -> None:
    async def test() -> None:
        settings = {"access": Access(Tokens([READER]))}
        async with (
            controller(guarded=settings) as host,
            serving_http(host, LOOPBACK) as address,
            connected(address) as peer,
        ):
            assert (await peer.ask("GET", "/")).status == 200
            assert (await peer.ask("GET", "/dashboard/main.js")).status == 200
            assert (await peer.ask("GET", EVENTS)).status == 401
            assert (await peer.ask("GET", f"{EVENTS}?token={READER}")).status == 401
            await begin(peer, Authorization=f"Bearer {READER}")
            assert (await snapshot(peer))["whole"]

    run(test())


def test_the_first_snapshot_is_whole_and_later_ones_contain_what_is_new() -> None:
    async def test() -> None:
        async with served() as (peer, address, *_), connected(address) as viewer:
            await peer.ask("POST", INFER, row(id="mine"))
            headers = await begin(viewer)
            assert headers["content-type"] == "text/event-stream"
            assert headers["cache-control"] == "no-store"
            first = await snapshot(viewer)
            assert first["whole"]
            assert first["server"]["stage"] == "serving"
            assert [device["device"] for device in first["devices"]] == ["w0/gpu0"]
            assert first["devices"][0]["pages"] == 100
            (model,) = first["models"]
            assert (model["model"], model["ready"], model["short"][1]) == ("m", True, 1)
            assert [device["device"] for device in first["timeline"]["devices"]] == ["w0/gpu0"]
            done = first["timeline"]["devices"][0]["done"]
            assert ["mine", 0, "m"] in [entry[:3] for entry in done]
            second = await snapshot(viewer)
            assert "whole" not in second
            assert second["now"] - first["now"] >= 199
            assert not second["timeline"]["devices"][0]["done"]

    run(test())


class Refusing(SimpleScheduler):
    """Refuses every request."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
        return [Answer(request.id, status, "too busy", reason=RefusalReason.DEVICE_BUSY)]


def test_a_refusal_appears_with_its_reason() -> None:
    async def test() -> None:
        async with served(Refusing()) as (peer, address, *_), connected(address) as viewer:
            assert (await peer.ask("POST", INFER, row())).status == 503
            await begin(viewer)
            history: list[Any] = []
            while not any(point["reasons"] for point in history):
                history += (await snapshot(viewer)).get("history", [])
            assert sum(point["refused"] for point in history) == 1
            assert {"device_busy": 1} in [point["reasons"] for point in history]

    run(test())


def test_a_viewer_beyond_the_limit_gets_503_until_another_leaves() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(max_viewers=2)) as (peer, address, *_), AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(connected(address)) for _ in range(2)]
            for viewer in viewers:
                await begin(viewer)
            refused = await peer.ask("GET", EVENTS)
            assert refused.status == 503
            assert refused.json()["error"].startswith("viewer limit reached (2)")
            assert int(refused.headers["retry-after"]) > 0
            viewers[0].writer.close()
            while (await peer.ask("GET", "/v2/health/live")).status == 200:
                peer.say("GET", EVENTS)
                status, headers = await head(peer)
                if status == 200:
                    break
                await peer.reader.readexactly(int(headers["content-length"]))
            assert (await snapshot(peer))["whole"]

    run(test())


def test_a_viewer_that_reads_nothing_makes_room_for_another_although_the_kernel_takes_its_messages() -> None:
    async def test() -> None:
        config = HttpConfig(max_viewers=1, viewer_timeout=0.2)
        async with served(http=config) as (peer, address, *_):
            with socket.socket() as viewer:
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel uses its minimum
                viewer.connect(address)
                viewer.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % EVENTS.encode())
                status = 0
                while status != 503:
                    async with connected(address) as other:
                        other.say("GET", EVENTS)
                        status, _ = await head(other)
                while (await peer.ask("GET", "/v2/health/live")).status == 200:
                    async with connected(address) as other:
                        other.say("GET", EVENTS)
                        if (await head(other))[0] == 200:
                            return

    run(test())


def test_the_stream_ends_when_the_server_ends() -> None:
    async def test() -> None:
        async with serving() as (host, _), AsyncExitStack() as stack:
            async with serving_http(host, LOOPBACK) as address:
                viewer = await stack.enter_async_context(connected(address))
                await begin(viewer)
                await snapshot(viewer)
            while await chunk(viewer):
                pass
            assert await viewer.reader.read() == b""

    run(test())


def test_a_client_of_http_1_0_gets_the_stream_without_chunks() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            peer.writer.write(b"GET %b HTTP/1.0\r\n\r\n" % EVENTS.encode())
            status, headers = await head(peer)
            assert status == 200
            assert "transfer-encoding" not in headers
            assert headers["connection"] == "close"
            assert (await peer.reader.readline()).startswith(b"data: {")

    run(test())


def test_head_of_the_stream_has_no_body() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            peer.say("HEAD", EVENTS)
            assert (await head(peer))[0] == 200
            assert (await peer.ask("GET", "/v2/health/live")).status == 200

    run(test())


def test_a_slow_viewer_misses_messages_and_is_disconnected_after_its_patience() -> None:
    async def test() -> None:
        connection = FakeConnection()
        transport = connection.transport
        stream = Stream(connection.exchange(), Reply(200, [], []), patience=5.0)
        now = 0.0
        stream._clock = lambda: now
        assert stream.send(b"one")
        transport.waiting = 10
        now = 4.0
        assert not stream.send(b"two")
        assert not transport.aborted
        transport.waiting = 0
        assert stream.send(b"three")
        transport.waiting = 10
        now = 9.5
        assert not stream.send(b"four")
        assert transport.aborted
        assert [data for data in transport.written if b"two" in data or b"four" in data] == []

    asyncio.run(test())


@asynccontextmanager
async def viewing(count: int) -> AsyncIterator[list[Peer]]:
    async with served() as (_, address, *_), AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(connected(address)) for _ in range(count)]
        for viewer in viewers:
            await begin(viewer)
        yield viewers


def test_all_viewers_get_the_same_snapshots() -> None:
    async def test() -> None:
        async with viewing(3) as viewers:
            seen = [{(await snapshot(viewer))["now"] for _ in range(4)} for viewer in viewers]
            assert len(set.intersection(*seen)) >= 3

    run(test())


def test_a_viewer_that_disconnects_is_forgotten() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(max_viewers=1)) as (peer, address, *_):
            for _ in range(3):
                async with connected(address) as viewer:
                    await begin(viewer)
                    await snapshot(viewer)
                while True:
                    peer.say("HEAD", EVENTS)
                    if (await head(peer))[0] == 200:
                        break

    run(test())
