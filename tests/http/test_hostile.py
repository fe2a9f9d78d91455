"""Requests that would take too much of the server's time: each is refused, or handled in steps."""

import asyncio
import json
import os
import threading
import zlib
from typing import Any

import numpy as np
import pytest

from client.live import run
from clockwork.frontend.body_quota import BodyQuota
from clockwork.frontend.listing import PER_STEP, ListFormat, encoded_list
from clockwork.frontend.unpacking import PIECE, in_thread
from clockwork.host.process_tuning import NICENESS
from clockwork.http import application
from clockwork.http.application import _encode_items
from clockwork.http.bodies import MAX_REPOSITORY_BODY, Bodies, packed
from clockwork.http.config import HttpConfig
from clockwork.http.replies import json_reply
from clockwork.messages.actions import Infer
from clockwork.oip.failures import RequestFailedError
from clockwork.scheduling.echo import EchoScheduler
from clockwork.steps import at_once
from clockwork.units import KIB, MIB
from http_fakes import FakeConnection
from http_raw import Peer, binary_row, connected, row, served

INFER = "/v2/models/m/infer"
WIDE = "/v2/models/wide/infer"
COLUMNS = 1 << 20


def in_json(shape: list[int], data: str, **tensor: Any) -> bytes:
    head = json.dumps({"name": "x", "datatype": "FP32", "shape": shape, **tensor})[:-1]
    return f'{{"inputs":[{head},"data":{data}}}]}}'.encode()


async def refused(peer: Peer, path: str, body: bytes, status: int, why: str, **headers: Any) -> None:
    answer = await peer.ask("POST", path, body, **headers)
    assert (answer.status, why in answer.json()["error"]) == (status, True), answer.json()


LISTS = "[" + "[0]," * 300_000 + "[0]]"
WRONG = {
    "batch": (in_json([300_001, 1], LISTS), "input 'x' has shape [300001, 1]"),
    "rows": (in_json([300_001, 4], LISTS), "request has 300001 rows"),
    "rank": (in_json([300_001], LISTS), "input 'x' has shape [300001]"),
    "datatype": (in_json([1, 4], LISTS, datatype="INT64"), "input 'x' has datatype INT64"),
    "name": (in_json([1, 4], LISTS, name="z"), "input 'z' is unknown"),
}


@pytest.mark.parametrize("what", WRONG)
def test_shape_batch_and_datatype_are_checked_before_elements_are_decoded(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("the elements were decoded")

    async def test() -> None:
        async with served(EchoScheduler()) as (peer, _, host, _):
            monkeypatch.setattr(application, "inputs_of", decoded)
            body, why = WRONG[what]
            await refused(peer, INFER, body, 400, why)
            await refused(peer, "/v2/models/nobody/infer", body, 404, "model 'nobody' is unknown")
            tally = host.description().tally
            assert tally.of("m").named() == {"INVALID_REQUEST": 1}
            assert tally.without_model() == {"UNKNOWN_MODEL": 1}

    run(test())


def test_long_correct_json_is_answered() -> None:
    async def test() -> None:
        async with served(EchoScheduler(), models=("wide.onnx",)) as (peer, *_):
            sent = np.arange(COLUMNS, dtype=np.float32)
            for data in (f"[{','.join(map(str, range(COLUMNS)))}]", json.dumps([list(range(COLUMNS))])):
                body = in_json([1, COLUMNS], data)[:-1] + b',"parameters":{"binary_data_output":true}}'
                answer = await peer.ask("POST", WIDE, body)
                assert answer.status == 200
                at = int(answer.headers["inference-header-content-length"])
                assert np.array_equal(np.frombuffer(answer.body, np.float32, offset=at), sent)

    run(test())


def test_json_has_a_limit_in_both_directions() -> None:
    async def test() -> None:
        config = HttpConfig(max_json=256 * KIB)
        async with served(EchoScheduler(), models=("wide.onnx",), http=config) as (peer, *_):
            await refused(peer, WIDE, in_json([1, COLUMNS], f"[{'0,' * COLUMNS}0]"), 400, "or raise --max-json")
            sent, length = binary_row(bytes(4 * COLUMNS), (1, COLUMNS), binary_data_output=False)
            why = "request all outputs with binary_data_output, or raise --max-json"
            await refused(peer, WIDE, sent, 400, why, Inference_Header_Content_Length=length)
            sent, length = binary_row(bytes(4 * COLUMNS), (1, COLUMNS))
            assert (await peer.ask("POST", WIDE, sent, Inference_Header_Content_Length=length)).status == 200

    run(test())


def test_a_repository_request_has_a_short_limit() -> None:
    async def test() -> None:
        async with served(EchoScheduler()) as (peer, *_):
            body = b" " * (MAX_REPOSITORY_BODY + 1)
            index = "/v2/repository/index"
            await refused(peer, index, body, 413, "exceeds the limit of 65536 bytes")
            why = "unpacks to more than the limit of 64.0 KiB"
            await refused(peer, index, zlib.compress(body), 413, why, Content_Encoding="deflate")

    run(test())


# -------------------------------------------------------------------------------------------------- compressed bodies


class Watched(BodyQuota):
    """Remembers the largest number of bytes counted."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.highest = 0

    def add(self, nbytes: int) -> None:
        try:
            super().add(nbytes)
        finally:
            self.highest = max(self.highest, self._bytes)


async def unpack(bodies: Bodies, body: bytes) -> int:
    """Return the length of the unpacked body."""
    exchange = FakeConnection().exchange("POST", body)
    with bodies.keeping() as kept:
        return len(await bodies.receive(exchange, {b"content-encoding": b"gzip"}, kept))


def watched(config: HttpConfig) -> tuple[Bodies, Watched]:
    bodies = Bodies(config, BodyQuota(config.max_held))
    bodies._unpacked_quota = Watched(2 * config.max_unpacked)
    return bodies, bodies._unpacked_quota


@pytest.mark.parametrize("size", [0, 1, 100, PIECE, PIECE + 1, 5 * MIB])
def test_a_compressed_body_is_unpacked_in_pieces(size: int) -> None:
    async def test() -> None:
        bodies, held = watched(HttpConfig())
        random = np.random.default_rng(0).bytes(size)
        for data in (bytes(size), random):
            packer = zlib.compressobj(1, wbits=31)
            assert await unpack(bodies, packer.compress(data) + packer.flush()) == size
        assert (held.highest, held._bytes) == (size, 0)

    run(test())


def test_unpacking_stops_at_the_limit() -> None:
    async def test() -> None:
        bodies, held = watched(HttpConfig(max_unpacked=4 * MIB))
        packer = zlib.compressobj(9, wbits=31)
        bomb = packer.compress(bytes(64 * MIB)) + packer.flush()
        with pytest.raises(RequestFailedError, match=r"unpacks to more than the limit of 4\.0 MiB") as caught:
            await unpack(bodies, bomb)
        assert caught.value.failure.http == 413
        assert held.highest <= 4 * MIB + PIECE
        assert held._bytes == 0

    run(test())


def test_all_unpacked_bodies_together_have_a_limit() -> None:
    async def test() -> None:
        bodies, held = watched(HttpConfig(max_unpacked=4 * MIB))
        packer = zlib.compressobj(9, wbits=31)
        bomb = packer.compress(bytes(64 * MIB)) + packer.flush()
        found = await asyncio.gather(*(unpack(bodies, bomb) for _ in range(12)), return_exceptions=True)
        statuses = [error.failure.http for error in found if isinstance(error, RequestFailedError)]
        assert len(statuses) == 12
        assert set(statuses) <= {413, 503}
        assert 503 in statuses
        assert held.highest <= 8 * MIB + PIECE
        assert held._bytes == 0

    run(test())


def test_broken_compressed_bodies_are_refused() -> None:
    async def test() -> None:
        bodies, _ = watched(HttpConfig())
        packer = zlib.compressobj(1, wbits=31)
        right = packer.compress(bytes(100)) + packer.flush()
        for wrong in (right + b"x", right + bytes(200 * KIB), right[:-1], b"", b"nothing"):
            with pytest.raises(RequestFailedError, match="cannot be unpacked"):
                await unpack(bodies, wrong)

    run(test())


def test_a_compressed_request_counts_while_it_is_in_progress() -> None:
    def holds(action: Any) -> bool:
        return isinstance(action, Infer) and not action.inputs[0].generated

    async def test() -> None:
        config = HttpConfig(max_unpacked=5 * MIB)
        async with (
            served(models=("wide.onnx",), http=config, holds=holds) as (peer, address, _, worker),
            connected(address) as second,
            connected(address) as third,
        ):
            sent, length = binary_row(bytes(4 * COLUMNS), (1, COLUMNS))
            headers = {"Content-Encoding": "deflate", "Inference-Header-Content-Length": length}
            peer.say("POST", WIDE, zlib.compress(sent), **headers)
            await worker.until(lambda: len(worker.held) == 1)
            second.say("POST", WIDE, zlib.compress(sent), **headers)
            await worker.until(lambda: len(worker.held) == 2)
            await refused(third, WIDE, zlib.compress(sent), 503, "retry later", **headers)
            for action, payload in worker.held:
                worker.answer(action, payload)
            assert [(await one.answer()).status for one in (peer, second)] == [200, 200]
            worker.holds = lambda action: False
            assert (await third.ask("POST", WIDE, zlib.compress(sent), **headers)).status == 200

    run(test())


def test_a_long_reply_is_compressed_in_pieces() -> None:
    async def test() -> None:
        content = "x" * (3 * MIB)
        reply = await packed(json_reply(content), {b"accept-encoding": b"gzip"})
        assert zlib.decompress(b"".join(reply.parts), 31) == json.dumps(content).encode()

    run(test())


def test_compression_threads_have_a_low_priority() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def test() -> None:
        assert await in_thread(niceness) >= NICENESS

    run(test())


# ------------------------------------------------------------------------------------------------------- descriptions


def test_a_list_of_models_is_encoded_in_steps() -> None:
    numbers: list[int] = []

    def entries() -> Any:
        for number in range(10 * PER_STEP + 1):
            numbers.append(number)
            yield {"number": number, "text": "x" * 10_000}

    form = ListFormat(_encode_items, b'{"all":[', b",", b"]}")
    assert [len(numbers) for _ in encoded_list(entries(), form)] == [PER_STEP * step for step in range(1, 11)]
    numbers.clear()
    parts = at_once(encoded_list(entries(), form))
    assert len(parts) > 1
    assert [entry["number"] for entry in json.loads(b"".join(parts))["all"]] == numbers
    for count in (0, 1, PER_STEP - 1, PER_STEP, PER_STEP + 1):
        assert json.loads(b"".join(at_once(encoded_list(range(count), form))))["all"] == list(range(count))


def test_statistics_and_the_index_have_every_model() -> None:
    async def test() -> None:
        models = tuple(f"m{number}.onnx" for number in range(3 * PER_STEP))
        async with served(EchoScheduler(), models=models) as (peer, *_):
            assert (await peer.ask("POST", "/v2/models/m3/infer", row())).status == 200
            found = (await peer.ask("GET", "/v2/models/stats")).json()["model_stats"]
            index = (await peer.ask("POST", "/v2/repository/index")).json()
            names = sorted(name.removesuffix(".onnx") for name in models)
            assert [entry["name"] for entry in found] == [entry["name"] for entry in index] == names
            assert {entry["name"]: entry["inference_stats"]["success"]["count"] for entry in found}["m3"] == 1

    run(test())
