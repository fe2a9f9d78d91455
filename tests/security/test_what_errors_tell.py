"""What clients are told when things go wrong: nothing of where the server's files are, or of how it is made."""

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


def check(told: str, root: Path) -> None:
    """Nothing of the inside is in it."""
    assert told
    assert "Traceback" not in told
    assert str(root) not in told
    assert not PATH.search(told), told
    assert not [name for name in OURS if re.search(rf"(?<![\w-]){re.escape(name)}\b", told)], told
    assert not re.search(r"\.(?:cc|cpp|h):\d+|onnxruntime::|site-packages", told), told


class Clumsy(SimpleScheduler):
    """Raises at a request for three rows."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        if request.input.tensors[0].shape[0] == 3:
            raise FileNotFoundError(2, "No such file", __file__)
        return super().infer(now, request)


def models(root: Path) -> None:
    """One that can be served, and refuses shapes that do not go together; and files that are none."""
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
    told = []
    for path in BAD_FILES:
        with pytest.raises(ClockworkError) as caught:
            await client.load_model(path)
        told.append(str(caught.value))
        body = json.dumps({"parameters": {"path": path}}).encode()
        told.append(await over_http(peer, "/v2/repository/models/some/load", body))
        with pytest.raises(InferenceServerException) as refused:
            await grpc_client.load_model(path)
        told.append(str(refused.value))
    return told


def asked(rows: int, to: list[int]) -> dict[str, Any]:
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
        json.dumps(asked(1, [3, 3])).encode(),  # the runtime refuses it
        json.dumps(asked(3, [3, 4])).encode(),  # the scheduler raises
    ]
    told = [await over_http(peer, infer, body) for body in bodies]
    told.append(await over_http(peer, infer, b"\x1f\x8bnothing", Content_Encoding="gzip"))
    told.append(await over_http(peer, infer, b"x", Inference_Header_Content_Length="x"))
    for rows, to in ((1, [3, 3]), (3, [3, 4])):
        with pytest.raises(ClockworkError) as caught:
            await client.infer("reshapes", {"x": np.zeros((rows, 4), np.float32), "to": np.array(to)})
        told.append(str(caught.value))

    def fails(*_: Any) -> Any:
        raise OSError(2, "No such file or directory", __file__)

    monkeypatch.setattr("clockwork.http.application.parse_infer", fails)
    told.append(await over_http(peer, infer, json.dumps(asked(1, [1, 4])).encode()))
    return told


async def provoke_grpc(client: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def fails(*_: Any) -> Any:
        raise OSError(2, "No such file or directory", __file__)

    async def told(rows: int, to: list[int]) -> str:
        inputs = [triton.InferInput("x", [rows, 4], "FP32"), triton.InferInput("to", [2], "INT64")]
        inputs[0].set_data_from_numpy(np.zeros((rows, 4), np.float32))
        inputs[1].set_data_from_numpy(np.array(to))
        with pytest.raises(InferenceServerException) as caught:
            await client.infer("reshapes", inputs)
        return str(caught.value)

    found = [await told(1, [3, 3]), await told(3, [3, 4])]
    monkeypatch.setattr("clockwork.grpc_frontend.service.request_of", fails)
    found.append(await told(1, [1, 4]))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "reshapes", "inputs": [triton.InferInput("x", [1, 4], "FP32")]}

    return found + [str(error) async for _, error in client.stream_infer(requests())]


def test_no_error_tells_of_the_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models(tmp_path)

    async def test() -> list[str]:
        config = ControllerConfig(profiling=QUICK, load_timeout=seconds(1), default_slo=seconds(20))
        host = ControllerHost(ControllerHostConfig(LOOPBACK, LOOPBACK, config), Clumsy())
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
                told = await provoke_loads(peer, client, grpc_client)
                await client.load_model("reshapes.onnx")
                await eventually(lambda: host.progress()[0] == "serving")
                told += await provoke_grpc(grpc_client, monkeypatch)
                return told + await provoke_inference(peer, client, monkeypatch)
        finally:
            worker.cancel()
            await asyncio.wait([worker])
            await host.close()

    told: list[str] = []

    async def collect() -> None:
        told.extend(await test())

    with caplog.at_level(logging.CRITICAL):
        run(collect())
    assert len(told) >= 3 * len(BAD_FILES) + 16
    for text in told:
        check(text.replace("/etc/passwd", "").replace("/etc/x", ""), tmp_path)  # what the client wrote itself
