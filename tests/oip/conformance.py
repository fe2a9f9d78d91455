"""Runs one real server for the conformance tests, and provides a minimal HTTP client."""

import http.client
import json
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx import TensorProto

import onnx_graphs
from cli.processes import save_dense, serve

#: ONNX's number of each datatype, and a tensor of shape ``[1, 3]`` as little-endian bytes.
ECHOES: dict[str, tuple[int, bytes]] = {
    "BOOL": (TensorProto.BOOL, b"\x01\x00\x01"),
    "UINT8": (TensorProto.UINT8, bytes([0, 1, 255])),
    "UINT16": (TensorProto.UINT16, struct.pack("<3H", 0, 1, 65535)),
    "UINT32": (TensorProto.UINT32, struct.pack("<3I", 0, 1, 2**32 - 1)),
    "UINT64": (TensorProto.UINT64, struct.pack("<3Q", 0, 1, 2**64 - 1)),
    "INT8": (TensorProto.INT8, struct.pack("<3b", -128, 0, 127)),
    "INT16": (TensorProto.INT16, struct.pack("<3h", -(2**15), 0, 1)),
    "INT32": (TensorProto.INT32, struct.pack("<3i", -(2**31), 0, 1)),
    "INT64": (TensorProto.INT64, struct.pack("<3q", -(2**63), 0, 1)),
    "FP16": (TensorProto.FLOAT16, struct.pack("<3e", 0.5, -1, 65504)),
    "BF16": (TensorProto.BFLOAT16, b"\x00\x3f\x80\xbf\x80\x40"),
    "FP32": (TensorProto.FLOAT, struct.pack("<3f", 0.5, -1, 2.0**100)),
    "FP64": (TensorProto.DOUBLE, struct.pack("<3d", 0.1, -1, 1e300)),
    "BYTES": (TensorProto.STRING, b"\x00\x00\x00\x00\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa9"),
}


class Server(NamedTuple):
    http: str
    grpc: str
    native: str


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def parts(self) -> tuple[Any, bytes]:
        """Return the JSON, and the binary tensors that follow the JSON."""
        at = int(self.headers["inference-header-content-length"])
        return json.loads(self.body[:at]), self.body[at:]


@contextmanager
def conforming(directory: Path) -> Iterator[Server]:
    """Serve three kinds of models.

    ``dense`` maps x (N, 32) to y (N, 5). ``two`` maps a and b (N, 2) to their sum and difference. For each datatype,
    there is a model that returns its input.
    """
    paths = [save_dense(directory / "dense.onnx")]
    for name, (kind, _) in ECHOES.items():
        paths.append(onnx_graphs.saved(onnx_graphs.echo(kind), directory / f"{name}.onnx"))
    two = onnx_graphs.model(
        [onnx_graphs.node("Add", "a b", "sum"), onnx_graphs.node("Sub", "a b", "difference")],
        [onnx_graphs.value("a", ["N", 2]), onnx_graphs.value("b", ["N", 2])],
        [onnx_graphs.value("sum", ["N", 2]), onnx_graphs.value("difference", ["N", 2])],
    )
    onnx.save(two, directory / "two.onnx")
    paths.append(directory / "two.onnx")
    with serve(*map(str, paths), "--http=127.0.0.1:0", "--grpc=127.0.0.1:0") as process:
        native = process.address()
        http, grpc = (process.out.wait_for(rf"^clockwork serves {name} on (\S+)$")[1] for name in ("HTTP", "gRPC"))
        yield Server(http, grpc, native)


def ask(server: Server, method: str, path: str, body: Any = None, **headers: Any) -> Reply:
    """Send one request on its own connection. A body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    with closing(http.client.HTTPConnection(server.http, timeout=30)) as connection:
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def tensor(name: str, data: Any, datatype: str = "FP32", shape: Any = None) -> dict[str, Any]:
    """Return an input in JSON. Its default shape is one row."""
    return {"name": name, "datatype": datatype, "shape": shape or [1, len(data)], "data": data}


def binary(name: str, size: int, datatype: str = "FP32", shape: Any = (1, 2)) -> dict[str, Any]:
    """Return an input whose elements follow the JSON."""
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


A, B = tensor("a", [1, 2]), tensor("b", [10, 30])
"""The inputs of ``two``."""


def infer(server: Server, model: str, *inputs: Any, behind: bytes = b"", **more: Any) -> Reply:
    """Send an inference request. If tensors follow the JSON in ``behind``, a header has the length of the JSON."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"Inference_Header_Content_Length": len(head)} if behind else {}
    return ask(server, "POST", f"/v2/models/{model}/infer", head + behind, **headers)
