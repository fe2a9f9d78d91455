"""Error messages to clients contain no paths of the server, no names of its code, and no text of its libraries."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc.aio as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import clockwork
from client.live import LOOPBACK, QUICK, run
from clockwork.client import AsyncClient
from clockwork.controller.config import ControllerConfig
from clockwork.errors import ClockworkError
from clockwork.grpc_frontend import serve_grpc
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.worker import WorkerConfig, run_worker
from clockwork.http.server import serving_http
from clockwork.messages.commands import Answer
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos, seconds
from http_raw import Peer, connected, eventually

OURS = {path.name for path in Path(clockwork.__file__).parent.rglob("*.py")}
PATH = re.compile(r"(?<![\w.:/])/(?!v2\b)[\w.-]+/[\w./-]+")


def check(message: str, root: Path) -> None:
    """Assert that a message contains nothing internal."""
    assert message
    assert "Traceback" not in message
    assert str(root) not in message
    assert not PATH.search(message), message
    assert not [name for name in OURS if re.search(rf"(?<![\w-]){re.escape(name)}\b", message)], message
    assert not re.search(r"\.(?:cc|cpp|h):\d+|onnxruntime::|site-packages", message), message


class Failing(SimpleScheduler):
    """Raises an exception for a request with three rows."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        if request.input.tensors[0].shape[0] == 3:
            raise FileNotFoundError(2, "No such file", __file__)
        return super().infer(now, request)


def models(root: Path) -> None:
    """Write a model that can be served and fails for some inputs, and files that are not valid models."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4]),
        helper.make_tensor_value_info("to", TensorProto.INT64, [2]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    graph = helper.make_graph([node], "reshapes", inputs, [output])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), root / "reshapes.onnx")
    unknown = helper.make_graph([helper.make_node("Nope", ["x", "to"], ["y"])], "g", inputs, [output])
    onnx.save(helper.make_model(unknown, opset_imports=opset, ir_version=9), root / "unknown.onnx")
    (root / "broken.onnx").write_bytes(b"\x08\x09nothing")
    (root / "closed.onnx").mkdir()
    (root / "elsewhere.onnx").symlink_to("/etc/passwd")


BAD_FILES = [
    "absent.onnx",
    "broken.onnx",
    "closed.onnx",
    "elsewhere.onnx",
    "unknown.onnx",
    "../x.onnx",
    "/etc/passwd",
    "",
]


async def over_http(peer: Peer, path: str, body: bytes, **headers: Any) -> str:
    answer = await peer.ask("POST", path, body, **headers)
    assert answer.status >= 400, (path, body)
    return json.dumps(answer.headers) + answer.body.decode()


async def provoke_loads(peer: Peer, client: AsyncClient, grpc_client: Any) -> list[str]:
    messages = []
    for path in BAD_FILES:
        with pytest.raises(ClockworkError) as caught:
            await client.load_model(path)
        messages.append(str(caught.value))
        body = json.dumps({"parameters": {"path": path}}).encode()
        messages.append(await over_http(peer, "/v2/repository/models/some/load", body))
        with pytest.raises(InferenceServerException) as refused:
            await grpc_client.load_model(path)
        messages.append(str(refused.value))
    return messages


def body_of(rows: int, to: list[int]) -> dict[str, Any]:
    x = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [0] * (4 * rows)}
    return {"inputs": [x, {"name": "to", "datatype": "INT64", "shape": [2], "data": to}]}


async def provoke_inference(peer: Peer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    infer = "/v2/models/reshapes/infer"
    bodies = [
        b"",
        b"{",
        b"[" * 10_000,
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "\xff"}]}',
        json.dumps({"inputs": [{"name": "/etc/x", "shape": [1], "datatype": "FP32", "data": ["a"]}]}).encode(),
        json.dumps(body_of(1, [3, 3])).encode(),  # the runtime raises
        json.dumps(body_of(3, [3, 4])).encode(),  # the scheduler raises
    ]
    messages = [await over_http(peer, infer, body) for body in bodies]
    messages.append(await over_http(peer, infer, b"\x1f\x8bnothing", Content_Encoding="gzip"))
    messages.append(await over_http(peer, infer, b"x", Inference_Header_Content_Length="x"))
    for rows, to in ((1, [3, 3]), (3, [3, 4])):
        with pytest.raises(ClockworkError) as caught:
            await client.infer("reshapes", {"x": np.zeros((rows, 4), np.float32), "to": np.array(to)})
        messages.append(str(caught.value))

    def fails(*_: Any) -> Any:
        raise OSError(2, "No such file or directory", __file__)

    monkeypatch.setattr("clockwork.http.application.parse_infer", fails)
    messages.append(await over_http(peer, infer, json.dumps(body_of(1, [1, 4])).encode()))
    return messages


async def provoke_grpc(client: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def fails(*_: Any) -> Any:
        raise OSError(2, "No such file or directory", __file__)

    async def error_of(rows: int, to: list[int]) -> str:
        inputs = [triton.InferInput("x", [rows, 4], "FP32"), triton.InferInput("to", [2], "INT64")]
        inputs[0].set_data_from_numpy(np.zeros((rows, 4), np.float32))
        inputs[1].set_data_from_numpy(np.array(to))
        with pytest.raises(InferenceServerException) as caught:
            await client.infer("reshapes", inputs)
        return str(caught.value)

    found = [await error_of(1, [3, 3]), await error_of(3, [3, 4])]
    monkeypatch.setattr("clockwork.grpc_frontend.service.request_of", fails)
    found.append(await error_of(1, [1, 4]))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "reshapes", "inputs": [triton.InferInput("x", [1, 4], "FP32")]}

    return found + [str(error) async for _, error in client.stream_infer(requests())]


def test_no_error_message_contains_anything_internal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models(tmp_path)

    async def test() -> list[str]:
        config = ControllerConfig(profiling=QUICK, load_timeout=seconds(1), default_slo=seconds(20))
        host = ControllerHost(ControllerHostConfig(LOOPBACK, LOOPBACK, config), Failing())
        await host.start()
        worker = asyncio.ensure_future(run_worker(WorkerConfig(tmp_path, host.worker_address), OnnxRuntime(1)))
        try:
            async with (
                serving_http(host, LOOPBACK) as address,
                serve_grpc(host, LOOPBACK) as grpc_server,
                connected(address) as peer,
                AsyncClient(str(host.client_address)) as client,
                triton.InferenceServerClient(str(grpc_server.address)) as grpc_client,
            ):
                messages = await provoke_loads(peer, client, grpc_client)
                await client.load_model("reshapes.onnx")
                await eventually(lambda: host.progress()[0] == "serving")
                messages += await provoke_grpc(grpc_client, monkeypatch)
                return messages + await provoke_inference(peer, client, monkeypatch)
        finally:
            worker.cancel()
            await asyncio.wait([worker])
            await host.close()

    messages: list[str] = []

    async def collect() -> None:
        messages.extend(await test())

    with caplog.at_level(logging.CRITICAL):
        run(collect())
    assert len(messages) >= 3 * len(BAD_FILES) + 16
    for text in messages:
        check(text.replace("/etc/passwd", "").replace("/etc/x", ""), tmp_path)  # sent by the client itself
