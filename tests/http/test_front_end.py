"""The HTTP front end of a live controller with a scripted worker: errors, limits, and clients that disconnect."""

import asyncio
import gzip
import json
import logging
import zlib
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest

from client.live import LOOPBACK, ScriptedWorker, controller, run
from clockwork.client import AsyncClient
from clockwork.controller.config import ControlMode
from clockwork.errors import ServerError
from clockwork.host.controller import ControllerHost
from clockwork.http.config import HttpConfig
from clockwork.http.server import serving_http
from clockwork.messages.actions import Infer
from clockwork.messages.commands import Answer
from clockwork.messages.requests import StatusRequest, StatusResponse
from clockwork.messages.status import Status
from clockwork.net.address import Address
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos
from http_raw import Peer, binary_row, connected, row, served

INFER = "/v2/models/m/infer"
ROW = np.arange(4, dtype=np.float32)


async def until_outstanding(host: ControllerHost, wanted: int) -> None:
    client = host.local_client()
    for _ in count():
        response, _ = await client.ask(StatusRequest(client.next_id()))
        assert isinstance(response, StatusResponse)
        if response.server.outstanding == wanted:
            break
        await asyncio.sleep(0.005)
    client.close()


def test_json_in_json_out() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            answer = await peer.ask("POST", INFER, row(id="mine"))
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/json"
            content = answer.json()
            assert (content["model_name"], content["model_version"], content["id"]) == ("m", "1", "mine")
            assert content["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2, 2, 2, 2]}]
            assert content["parameters"]["batch_size"] == 1
            assert content["parameters"]["total_ms"] > 0

    run(test())


def test_binary_in_binary_out_and_the_path_may_have_a_version() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            body, length = binary_row(ROW.tobytes())
            answer = await peer.ask(
                "POST", "/v2/models/m/versions/1/infer", body, Inference_Header_Content_Length=length
            )
            assert answer.status == 200
            at = int(answer.headers["inference-header-content-length"])
            (output,) = json.loads(answer.body[:at])["outputs"]
            assert output == {"name": "y", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
            assert answer.body[at:] == (2 * ROW).tobytes()

    run(test())


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("rows", [1, 256, 1000], ids=["small", "medium", "in a thread"])
def test_bodies_may_be_compressed_both_ways(coding: str, rows: int) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            shape = (min(rows, 4), 4)
            sent = np.zeros(shape, np.float32) + np.float32(0.25)
            body, length = binary_row(sent.tobytes(), shape, padding="x" * rows * 100)
            answer = await peer.ask(
                "POST",
                INFER,
                PACKERS[coding](body),
                Inference_Header_Content_Length=length,
                Content_Encoding=coding,
                Accept_Encoding=f"br, {coding}",
            )
            assert answer.status == 200, answer.body
            at = int(answer.headers["inference-header-content-length"])
            unpacked = zlib.decompress(answer.body, 47) if "content-encoding" in answer.headers else answer.body
            assert unpacked[at:] == (2 * sent).tobytes()

    run(test())


CODINGS = {
    "gzip": "gzip",
    "deflate, gzip": "deflate",
    "gzip;q=0, br": None,
    "gzip;q=0.5, deflate; q=0.8": "deflate",
    "identity, gzip": None,
    "identity;q=0.2, gzip;q=0.3": "gzip",
    "gzip;q=x": None,
}


@pytest.mark.parametrize("accepted", CODINGS)
def test_an_inference_is_compressed_with_the_coding_that_the_client_prefers(accepted: str) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            answer = await peer.ask("POST", INFER, row(id="x" * 300), Accept_Encoding=accepted)
            coding = CODINGS[accepted]
            assert answer.headers.get("content-encoding") == coding
            body = answer.body if coding is None else zlib.decompress(answer.body, 47)
            assert json.loads(body)["outputs"][0]["data"] == [2.0] * 4

    run(test())


@pytest.mark.parametrize(
    "line",
    ["POST /v2/repository/index", "GET /v2/models/m/config", "GET /v2/models/m/stats", "GET /v2/openapi.json"],
)
def test_a_json_document_is_never_compressed(line: str) -> None:
    async def test() -> None:
        models = tuple(f"model-with-a-name-{number}.onnx" for number in range(9))
        async with served(models=("m.onnx", *models)) as (peer, *_):
            method, path = line.split()
            answer = await peer.ask(method, path, Accept_Encoding="gzip")
            assert (answer.status, answer.headers.get("content-encoding")) == (200, None)
            assert json.loads(answer.body)

    run(test())


def wrong_bodies() -> dict[str, tuple[int, bytes, dict[str, Any]]]:
    body, length = binary_row()
    header = {"Inference_Header_Content_Length": length}
    return {
        "not json": (400, b"hello", {}),
        "empty": (400, b"", {}),
        "header length is not a number": (400, body, {"Inference_Header_Content_Length": "-1"}),
        "header longer than body": (400, body, {"Inference_Header_Content_Length": len(body) + 1}),
        "cut": (400, body[:-1], header),
        "unknown input": (400, row().replace(b'"x"', b'"z"'), {}),
        "wrong shape": (400, row().replace(b"[1, 4]", b"[4, 1]"), {}),
        "wrong datatype": (400, row().replace(b"FP32", b"FP64"), {}),
        "unknown output": (400, row(outputs=[{"name": "z"}]), {}),
        "timeout is not a number": (400, row(parameters={"timeout": "soon"}), {}),
        "slo of zero": (400, row(parameters={"slo_ms": 0}), {}),
        "unknown coding": (415, body, {"Content_Encoding": "br"}),
        "not compressed": (400, body, {"Content_Encoding": "gzip"}),
        "compressed and cut": (400, gzip.compress(body)[:-9], {"Content_Encoding": "gzip"}),
        "a bomb": (413, gzip.compress(bytes(1 << 22)), {"Content_Encoding": "gzip"}),
        "too large": (413, bytes(1 << 21), {}),
    }


def test_errors_are_json_and_the_connection_stays_open() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(max_body=1 << 20)) as (peer, *_):
            for what, (status, body, headers) in wrong_bodies().items():
                answer = await peer.ask("POST", INFER, body, **headers)
                assert answer.status == status, (what, answer)
                assert answer.json()["error"], what
                assert "/" not in answer.json()["error"].replace("of 16 bytes", ""), answer.json()
            answer = await peer.ask("POST", "/v2/models/nobody/infer", row())
            assert (answer.status, answer.json()["status_name"]) == (404, "UNKNOWN_MODEL")
            answer = await peer.ask("PUT", INFER, row())
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
            assert (await peer.ask("GET", "/v2/models/nobody")).status == 404
            assert (await peer.ask("GET", "/v2/models/nobody/ready")).status == 404
            assert (await peer.ask("GET", "/v2/models/nobody/stats")).status == 404
            assert (await peer.ask("POST", INFER, row())).status == 200

    run(test())


def test_a_chunked_body_has_a_limit() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(max_body=1 << 20)) as (peer, *_):
            peer.writer.write(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(40):
                peer.writer.write(b"8000\r\n" + bytes(0x8000) + b"\r\n")
            peer.writer.write(b"0\r\n\r\n")
            assert (await peer.answer()).status == 413

    run(test())


def test_a_large_body_arrives_whole_and_the_next_request_is_answered() -> None:
    async def test() -> None:
        async with served(EchoScheduler(), models=("wide.onnx",)) as (peer, *_):
            sent = np.arange(4 << 20, dtype=np.float32)
            body, length = binary_row(sent.tobytes(), (4, 1 << 20))
            peer.say("POST", "/v2/models/wide/infer", body, Inference_Header_Content_Length=length)
            peer.say("GET", "/v2/health/live")
            answer = await peer.answer()
            assert answer.status == 200
            at = int(answer.headers["inference-header-content-length"])
            np.testing.assert_array_equal(np.frombuffer(answer.body, np.float32, offset=at), sent)
            assert (await peer.answer()).json() == {"live": True}

    run(test())


def test_inputs_larger_than_the_native_protocol_allows_are_refused() -> None:
    async def test() -> None:
        async with served(models=("wide.onnx",)) as (peer, *_):
            body, length = binary_row(bytes(17 << 22), (17, 1 << 20))
            answer = await peer.ask("POST", "/v2/models/wide/infer", body, Inference_Header_Content_Length=length)
            assert answer.status == 400
            assert "the inputs take 71303168 bytes; at most 67108864 are accepted" in answer.json()["error"]

    run(test())


def test_all_bodies_together_have_a_limit() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(piece=1 << 10, max_held=1 << 12)) as (peer, *_):
            answer = await peer.ask("POST", INFER, bytes(1 << 20))
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            for _ in range(20):  # the memory of the refused body was released
                assert (await peer.ask("POST", INFER, row() + b" " * (1 << 11))).status == 200

    run(test())


@pytest.mark.parametrize("begin", [b"GET /v2 HTTP/1.1\r\nx: ", b"GET /"])
def test_a_head_has_a_limit(begin: bytes) -> None:
    async def test() -> None:
        async with served(http=HttpConfig(max_head=1 << 12)) as (peer, address, *_):
            peer.writer.write(begin + b"y" * 4096)
            answer = await peer.answer()
            assert (answer.status, answer.json()["status_name"]) == (431, "INVALID_REQUEST")
            assert await peer.reader.read() == b""
            async with connected(address) as other:
                assert (await other.ask("GET", "/v2/health/live")).status == 200

    run(test())


def test_bytes_that_are_not_http_get_an_error_in_json() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            peer.writer.write(b"hello\r\n\r\n")
            answer = await peer.answer()
            assert (answer.status, answer.json()["error"]) == (400, "the bytes are not an HTTP/1.1 request")
            assert await peer.reader.read() == b""

    run(test())


@pytest.mark.parametrize(("begin", "status"), [(b"", None), (b"GET /v2 HT", 408)])
def test_a_slow_head_is_given_up(begin: bytes, status: int | None) -> None:
    async def test() -> None:
        async with served(http=HttpConfig(head_timeout=0.05)) as (peer, *_):
            peer.writer.write(begin)
            if status is not None:
                assert (await peer.answer()).status == status
            assert await peer.reader.read() == b""

    run(test())


def test_a_slow_body_is_given_up() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(body_timeout=0.05)) as (peer, *_):
            peer.writer.write(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123".encode())
            assert (await peer.answer()).status == 408

    run(test())


class Refuses(EchoScheduler):
    name: ClassVar[str] = "refuses"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
        return [Answer(request.id, status, "too late", predicted=25_000_000, retry_after=1_200_000_000)]


def test_a_refusal_has_a_retry_time() -> None:
    async def test() -> None:
        async with served(Refuses()) as (peer, *_):
            answer = await peer.ask("POST", INFER, row(parameters={"timeout": 2_000_000}, id="mine"))
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert answer.json() == {
                "id": "mine",
                "error": "too late (deadline of 2000 ms from the request parameter timeout, in microseconds)",
                "status": 8,
                "status_name": "CONTROLLER_COULD_NOT_START_IN_TIME",
                "predicted_ms": 25.0,
                "retry_after_ms": 1200.0,
            }

    run(test())


def test_a_passed_deadline_gets_504() -> None:
    async def test() -> None:
        held = False
        async with served(holds=lambda action: held and isinstance(action, Infer)) as (peer, *_):
            held = True
            answer = await peer.ask("POST", INFER, row(parameters={"slo_ms": 50}))
            assert (answer.status, answer.json()["status_name"]) == (504, "TIMEOUT")

    run(test())


def test_a_disconnect_cancels_the_request() -> None:
    async def test() -> None:
        held = False

        def holds(action: Any) -> bool:
            return held and isinstance(action, Infer)

        async with served(holds=holds) as (peer, address, host, worker):
            held = True
            async with connected(address) as other:
                other.say("POST", INFER, row())
                await worker.until(lambda: bool(worker.held))
                second = Peer(*await asyncio.open_connection(*address))
                second.say("POST", INFER, row())
                await until_outstanding(host, 2)
                second.writer.close()
            await until_outstanding(host, 0)
            held = False
            for action, payload in worker.held:
                worker.answer(action, payload)
            assert (await peer.ask("POST", INFER, row())).status == 200

    run(test())


def test_waiting_requests_get_an_error_when_the_server_closes() -> None:
    async def test() -> None:
        async with controller() as host:
            async with serving_http(host, LOOPBACK) as address:
                reader, writer = await asyncio.open_connection(*address)
                peer = Peer(reader, writer)
                assert (await peer.ask("GET", "/v2/health/live")).status == 200
                assert (await peer.ask("GET", "/v2/health/ready")).status == 503
                answer = await peer.ask("GET", "/v2/models/m/ready")
                assert (answer.status, answer.json()["status_name"]) == (503, "INITIALIZING")
                peer.say("POST", INFER, row())
                await asyncio.sleep(0.05)
            answer = await peer.answer()
            assert (answer.status, answer.json()["status_name"]) == (503, "SHUTTING_DOWN")
            assert await reader.read() == b""
            writer.close()

    run(test())


def test_an_unexpected_error_is_logged_and_its_text_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> Any:
        raise RuntimeError("in a file somewhere")

    async def test() -> None:
        async with served() as (peer, *_):
            monkeypatch.setattr("clockwork.http.application.parse_infer", fails)
            answer = await peer.ask("POST", INFER, row())
            assert answer.status == 500
            assert b"somewhere" not in answer.body

    with caplog.at_level(logging.ERROR):
        run(test())
    assert "in a file somewhere" in caplog.text


def test_a_port_in_use_is_an_error() -> None:
    async def test() -> None:
        async with served() as (_, address, host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(ServerError, match=f"cannot listen for HTTP on {address}: .*--http"):
                async with serving_http(host, address):
                    pass
            with pytest.raises(ServerError, match="cannot listen for HTTP"):
                async with serving_http(host, Address("no.such.host.invalid", 1)):
                    pass
            assert await client.ls()

    run(test())


def test_models_are_not_loaded_while_serving_and_unloaded_only_in_explicit_mode() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            answer = await peer.ask("POST", "/v2/repository/models/n/load", b'{"parameters": {"path": "n.onnx"}}')
            assert answer.status == 400
            assert "start-up only" in answer.json()["error"]
            answer = await peer.ask("POST", "/v2/repository/models/m/unload")
            assert answer.status == 400
            assert "models are fixed after start-up" in answer.json()["error"]
            answer = await peer.ask("POST", "/v2/repository/models/m/load", b'{"parameters": {"config": "{}"}}')
            assert "the server has no model repository" in answer.json()["error"]

    run(test())


def test_a_load_beyond_the_limit_of_pending_loads_gets_503_with_a_retry_time() -> None:
    async def test() -> None:
        async with served(control=ControlMode.EXPLICIT, max_loads=0) as (peer, *_):
            answer = await peer.ask("POST", "/v2/repository/models/n/load", b'{"parameters": {"path": "n.onnx"}}')
            assert answer.status == 503
            assert answer.json()["error"] == "0 model loads are pending, which is the limit; retry later"
            assert answer.headers["retry-after"] == "1"

    run(test())


def test_models_are_loaded_during_start_up() -> None:
    async def test() -> None:
        worker = ScriptedWorker()
        async with (
            controller(models=(), load_timeout=1_000_000) as host,
            serving_http(host, LOOPBACK) as address,
            connected(address) as peer,
        ):
            assert (await peer.ask("POST", "/v2/repository/index")).json() == []
            await worker.connect(host)
            answer = await peer.ask("POST", "/v2/repository/models/n/load", b'{"parameters": {"path": "some.onnx"}}')
            assert (answer.status, answer.json()) == (200, {})
            assert (await peer.ask("GET", "/v2/models/n")).json()["inputs"][0][
                "name"
            ] == "x"  # waits for the end of start-up
            (entry,) = (await peer.ask("POST", "/v2/repository/index", b'{"ready": true}')).json()
            assert (entry["name"], entry["state"]) == ("n", "READY")

    run(test())


UPGRADE = (
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Upgrade: websocket\r\nConnection: upgrade",
)
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("offer", UPGRADE, ids=["h2c", "websocket"])
@pytest.mark.parametrize("pad", [0, 100_000], ids=["small", "large"])
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "in two"])
def test_an_offer_of_another_protocol_is_ignored(offer: str, pad: int, cut: bool) -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            body = row() + b" " * pad
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{offer}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            for _ in range(2):
                peer.writer.write(head if cut else head + body + LIVE)
                if cut:
                    await peer.writer.drain()
                    await asyncio.sleep(0.02)  # so that the server reads the head alone; the replies are the same
                    peer.writer.write(body + LIVE)
                assert (await peer.answer()).status == 200
                assert (await peer.answer()).json() == {"live": True}

    run(test())


def test_a_body_after_an_offer_is_never_parsed_as_a_request() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{UPGRADE[0]}\r\n"
            peer.writer.write(f"{head}Content-Length: {len(LIVE)}\r\n\r\n".encode())
            peer.writer.write(LIVE)
            assert (await peer.answer()).status == 400  # the body is not JSON
            peer.writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + LIVE)
            assert (await peer.answer()).status == 400
            assert await peer.reader.read() == b""

    run(test())


def test_an_offer_without_a_body_is_ignored() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            request = f"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n{UPGRADE[0]}\r\n\r\n".encode()
            peer.writer.write(request * 2)
            for _ in range(2):
                assert (await peer.answer()).json() == {"live": True}

    run(test())


def test_a_sequence_is_refused() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            answer = await peer.ask("POST", INFER, row(parameters={"sequence_id": 3}))
            assert answer.status == 400
            assert "sequence_id is not supported" in answer.json()["error"]

    run(test())


OVERLOADED = "the server is overloaded: requests wait"


@pytest.mark.parametrize(
    ("parameters", "slo"),
    [
        ({"timeout": 30}, "deadline of 0.03 ms from the request parameter timeout, in microseconds"),
        ({"timeout": 30, "slo_ms": 0.02}, "deadline of 0.02 ms from the request parameter slo_ms"),
        ({}, "deadline of 0.01 ms from the default SLO of the model"),
    ],
)
def test_a_refusal_has_the_slo_and_its_source(parameters: dict[str, Any], slo: str) -> None:
    async def test() -> None:
        async with served(model_slos={"m": 10_000}) as (peer, *_):
            error = OVERLOADED
            while OVERLOADED in error:  # on a busy host, the shedder may refuse the request before its SLO is read
                answer = await peer.ask("POST", INFER, row(parameters=parameters))
                assert answer.status in (503, 504)
                error = answer.json()["error"]
            assert error.endswith(f"({slo})")

    run(test())


def test_the_parameter_timeout_can_be_ignored() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(ignore_timeout=True)) as (peer, *_):
            answer = await peer.ask("POST", INFER, row(parameters={"timeout": 30}))
            assert answer.status == 200, answer.body

    run(test())
