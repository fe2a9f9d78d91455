"""Payloads in memory that a controller and its worker share."""

import asyncio
import os
import threading
from typing import Any

import numpy as np
import pytest

from client.live import ScriptedWorker, controller, run, serving
from clockwork.client import AsyncClient
from clockwork.errors import InvalidRequestError, ProtocolError, RequestRefusedError, ServerError
from clockwork.host.arena import BLOCK, Arena, ArenaView, make_arena
from clockwork.messages.actions import Infer, InferInput
from clockwork.net.connection import Connection
from clockwork.units import MIB
from http_raw import binary_row, eventually, served

COLUMNS = 1 << 20
ROW = np.arange(COLUMNS, dtype=np.float32).reshape(1, COLUMNS)
DOUBLED = [[0, 2, 4, 6]]
SHARED = {"payload_bytes": 32 * MIB}


def inputs(worker: ScriptedWorker) -> list[InferInput]:
    """Return the inputs of all Infers that a worker received, except generated ones."""
    return [
        request
        for action in worker.seen
        if isinstance(action, Infer)
        for request in action.inputs
        if not request.generated
    ]


def holds(action: object) -> bool:
    return isinstance(action, Infer) and not action.inputs[0].generated


async def infer(client: AsyncClient) -> None:
    assert (await client.infer("wide", {"x": ROW}))["y"].tolist() == DOUBLED


def test_a_worker_sees_a_region_but_cannot_write_to_it() -> None:
    arena = Arena(8 * BLOCK - 1)
    window = ArenaView(os.dup(arena.for_worker))
    assert window.name == arena.name
    region = arena.allocate(BLOCK + 5)
    region[:] = 7
    part = region.data[3:9]
    at = arena.offset_of(part)
    assert at == 3
    seen = window.view(at, 6)
    assert bytes(seen) == b"\7" * 6
    assert seen.readonly
    part[0] = 8
    assert seen[0] == 8
    arena.close()


def test_regions_do_not_overlap_and_are_freed_with_their_last_reference() -> None:
    arena = Arena(8 * BLOCK)
    first, second = arena.allocate(2 * BLOCK), arena.allocate(1)
    assert [arena.offset_of(region.data) for region in (first, second)] == [0, 2 * BLOCK]
    assert arena.taken == 3 * BLOCK
    others = [arena.allocate(2 * BLOCK) for _ in range(2)]
    assert arena.taken == 7 * BLOCK
    part = first.data[5:]
    del first
    assert arena.taken == 7 * BLOCK, "a part of the region is still in use"
    assert arena.offset_of(arena.allocate(2 * BLOCK).data) is None, "there is no room: ordinary memory"
    thread = threading.Thread(target=part.release)
    thread.start()
    thread.join()
    assert arena.taken == 5 * BLOCK
    assert arena.offset_of(arena.allocate(2 * BLOCK).data) == 0
    del second, others
    assert arena.taken == 0
    assert arena.offset_of(arena.allocate(2 * BLOCK + 1).data) is None, "more than a quarter is too much for one"
    arena.close()


def test_payloads_outside_the_arena_have_no_offset() -> None:
    arena = Arena(4 * BLOCK)
    for elsewhere in (b"abc", memoryview(b"abc"), memoryview(bytearray(9)), np.zeros(9, np.uint8).data, None):
        assert arena.offset_of(elsewhere) is None
    assert arena.offset_of(arena.allocate(0).data) is None
    arena.close()


@pytest.mark.parametrize(("at", "nbytes"), [(0, BLOCK + 1), (BLOCK, 1), (-1, 1), (1 << 62, 1), (0, -1), (9, -9)])
def test_a_payload_outside_the_arena_is_a_protocol_error(at: int, nbytes: int) -> None:
    arena = Arena(BLOCK)
    window = ArenaView(os.dup(arena.for_worker))
    with pytest.raises(ProtocolError, match=r"is outside the shared memory of 4.0 KiB"):
        window.view(at, nbytes)
    arena.close()


def test_an_invalid_descriptor_is_refused() -> None:
    with pytest.raises(OSError, match=r"Bad file descriptor|No such file"):
        ArenaView(987_654)


def test_payloads_are_sent_if_the_system_has_no_such_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused)
    assert make_arena(MIB) is None
    assert "payloads go through a socket" in caplog.text
    assert make_arena(0) is None


def test_long_requests_of_both_protocols_lie_in_the_arena_and_are_not_sent() -> None:
    async def test() -> None:
        async with serving(models=("wide.onnx",), guarded=SHARED) as (host, worker):
            async with AsyncClient(str(host.client_address)) as client:
                await infer(client)
            (native,) = inputs(worker)
            assert native.arena_offset >= 0
            assert native.arena_offset % 64 == 0
            assert host.arena is not None
            await eventually(lambda: host.arena is not None and host.arena.taken == 0)

        async with served(models=("wide.onnx",), guarded=SHARED) as (peer, _, host, worker):
            body, length = binary_row(ROW.tobytes(), ROW.shape)
            answer = await peer.ask("POST", "/v2/models/wide/infer", body, Inference_Header_Content_Length=length)
            assert answer.status == 200
            (over_http,) = inputs(worker)
            assert over_http.arena_offset >= 0
            assert over_http.arena_offset % 64 == 0
            await eventually(lambda: host.arena is not None and host.arena.taken == 0)

    run(test())


def test_memory_that_a_worker_may_still_read_is_not_reused() -> None:
    """A client gives up while its request is executed; meanwhile another client sends a request."""

    async def test() -> None:
        async with serving(models=("wide.onnx",), guarded=SHARED, holds=holds) as (host, worker):
            arena = host.arena
            assert arena is not None
            async with AsyncClient(str(host.client_address)) as client:
                impatient = asyncio.ensure_future(client.infer("wide", {"x": ROW}))
                await worker.until(lambda: len(worker.held) == 1)
                impatient.cancel()
                await asyncio.wait([impatient])
                await eventually(lambda: not host.description().tally.of("wide").pending)
                assert arena.taken > 0
                other = asyncio.ensure_future(infer(client))
                await worker.until(lambda: len(worker.held) == 2)
                first, second = inputs(worker)
                assert second.arena_offset >= first.arena_offset + first.payload_bytes
                for action, payload in worker.held:
                    worker.answer(action, payload)
                await other
                await eventually(lambda: arena.taken == 0)

    run(test())


def test_the_memory_of_a_lost_worker_is_freed() -> None:
    async def test() -> None:
        async with serving(models=("wide.onnx",), guarded=SHARED, holds=holds) as (host, worker):
            arena = host.arena
            assert arena is not None
            async with AsyncClient(str(host.client_address)) as client:
                asked = asyncio.ensure_future(client.infer("wide", {"x": ROW}, slo=0.5))
                await worker.until(lambda: len(worker.held) == 1)
                assert worker.connection is not None
                worker.connection.abort("it dies")
                with pytest.raises(RequestRefusedError, match="no device can serve wide now"):
                    await asked
            await eventually(lambda: arena.taken == 0)

    run(test())


def test_payloads_are_sent_to_a_worker_that_has_not_mapped_the_arena() -> None:
    async def test() -> None:
        async with controller(models=("wide.onnx",), guarded=SHARED) as host:
            worker = ScriptedWorker()
            await worker.connect(host)
            async with AsyncClient(str(host.client_address)) as client:
                await infer(client)
            assert [request.arena_offset for request in inputs(worker)] == [-1]

    run(test())


def test_the_memory_of_a_batch_that_could_not_be_sent_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    sends = Connection.send

    def send(connection: Connection, message: Any, payload: Any = ()) -> None:
        if holds(message):
            raise InvalidRequestError("it is too long")
        sends(connection, message, payload)

    async def test() -> None:
        async with serving(models=("wide.onnx",), guarded=SHARED) as (host, _):
            arena = host.arena
            assert arena is not None
            async with AsyncClient(str(host.client_address)) as client:
                await infer(client)
                monkeypatch.setattr(Connection, "send", send)
                with pytest.raises(ServerError, match="the batch cannot be sent: it is too long"):
                    await client.infer("wide", {"x": ROW})
            await eventually(lambda: arena.taken == 0)

    run(test())


def test_payloads_that_do_not_fit_into_the_arena_are_sent() -> None:
    async def test() -> None:
        async with serving(models=("wide.onnx",), guarded={"payload_bytes": BLOCK}) as (host, worker):
            async with AsyncClient(str(host.client_address)) as client:
                await infer(client)
            assert [request.arena_offset for request in inputs(worker)] == [-1]

    run(test())
