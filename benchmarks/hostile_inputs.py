"""Expensive inputs for ``bench_hostile.py``, and the process that sends them.

    python benchmarks/hostile_inputs.py NAME HTTP GRPC NATIVE

The program prepares the input NAME, prints ``ready``, and waits for a line on stdin. Then the program sends the input,
and prints how many responses had each status. The sender is a separate process, so that its work does not delay
measurements.
"""

import asyncio
import json
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import grpc
import onnx
import raw_http
from onnx import TensorProto, helper

from clockwork.client import AsyncClient
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.units import MIB

SERVICE = "/inference.GRPCInferenceService"
INPUTS_OF_MANY = 4
SHAPES = 50_000
NAMES = 50_000
SLO_MS = 60_000
ROUNDS = 5
IN_FLIGHT = 16


class Where:
    """The addresses of a server."""

    def __init__(self, http: str, grpc_address: str, native: str) -> None:
        self.http, self.grpc, self.native = http, grpc_address, native


def build_models(directory: Path) -> list[Path]:
    """Build the models ``row``, ``ints``, ``many`` and ``zeros``.

    ``row`` copies its input FP32[-1,-1], ``ints`` copies its input INT32[-1,-1], and ``many`` copies four inputs
    FP32[-1,-1]. The input of ``zeros`` is one INT64, and its output has that number of FP32 elements.
    """
    kinds = {"row": (TensorProto.FLOAT, 1), "ints": (TensorProto.INT32, 1), "many": (TensorProto.FLOAT, INPUTS_OF_MANY)}
    paths = []
    for name, (kind, count) in kinds.items():
        x, y = (
            [helper.make_tensor_value_info(f"{tensor}{at or ''}", kind, ["n", f"d{at}"]) for at in range(count)]
            for tensor in "xy"
        )
        nodes = [helper.make_node("Identity", [one.name], [two.name]) for one, two in zip(x, y, strict=True)]
        graph = helper.make_graph(nodes, name, x, y)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        paths.append(directory / f"{name}.onnx")
        onnx.save(model, paths[-1])
    return [*paths, build_zeros(directory)]


def build_zeros(directory: Path) -> Path:
    """Build the model ``zeros``, which `build_models` describes."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["count"])
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["x"], ["y"])], "zeros", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, directory / "zeros.onnx")
    return directory / "zeros.onnx"


def post(path: str, body: bytes, **headers: object) -> bytes:
    """Return the bytes of a whole POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def in_json(shape: list[int], data: bytes, datatype: str = "FP32", **parameters: object) -> bytes:
    """Return the JSON of a request. ``data`` is the JSON of its elements."""
    head = json.dumps({"parameters": {"slo_ms": SLO_MS, **parameters}})[:-1].encode()
    tensor = json.dumps({"name": "x", "datatype": datatype, "shape": shape})[:-1].encode()
    return head + b',"inputs":[' + tensor + b',"data":' + data + b"}]}"


def in_binary(model: str, data: bytes, *lengths: int, **parameters: object) -> bytes:
    """Return a whole request with binary inputs. Each input has one row, and ``lengths`` are the rows' lengths."""
    tensors = [
        {"name": f"x{at or ''}", "datatype": "FP32", "shape": [1, n], "parameters": {"binary_data_size": 4 * n}}
        for at, n in enumerate(lengths)
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"slo_ms": SLO_MS, **parameters}}).encode()
    return post(f"/v2/models/{model}/infer", head + data, Inference_Header_Content_Length=len(head))


async def ask_http(where: Where, *requests: bytes) -> Counter[str]:
    """Send requests at the same time, each on a separate connection. Return the number of responses for each status."""

    async def one(request: bytes) -> int:
        connection = await raw_http.connect(where.http)
        try:
            return await connection.ask(request)
        except RuntimeError:
            return 0
        finally:
            connection.transport.close()

    return Counter(str(status) for status in await asyncio.gather(*map(one, requests)))


async def ask_grpc(where: Where, method: str, message: bytes) -> Counter[str]:
    """Make one gRPC call, and return the name of its status."""
    options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    async with grpc.aio.insecure_channel(where.grpc, options) as channel:
        try:
            await channel.unary_unary(f"{SERVICE}/{method}")(message)
        except grpc.aio.AioRpcError as error:
            return Counter([error.code().name])
    return Counter(["OK"])


def typed(model: str, datatype: str, field: str, values: list[Any]) -> bytes:
    """Return a ModelInferRequest with typed contents."""
    message = pb.ModelInferRequest(model_name=model)
    message.parameters["slo_ms"].double_param = SLO_MS
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[1, len(values)])
    getattr(tensor.contents, field).extend(values)
    return bytes(message.SerializeToString())


def json_lists() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare a request with 15 MiB of lists of one element, in a batch that is much too large."""
    count = 15 * MIB // 4
    body = in_json([count, 1], b"[" + b"[0]," * (count - 1) + b"[0]]")
    request = post("/v2/models/row/infer", body)
    return lambda where: ask_http(where, request)


def json_right() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare a valid request with 15 MiB of floats in nested lists."""
    count = 15 * MIB // 9
    body = in_json([1, count], b"[[" + b"0.123456," * (count - 1) + b"1]]", binary_data_output=True)
    request = post("/v2/models/row/infer", body)
    return lambda where: ask_http(where, request)


def json_crowd() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare twelve valid requests of 2 MiB of JSON, which are sent at the same time."""
    count = 2 * MIB // 9
    body = in_json([1, count], b"[" + b"0.123456," * (count - 1) + b"1]", binary_data_output=True)
    request = post("/v2/models/row/infer", body)
    return lambda where: ask_http(where, *[request] * 12)


def typed_ints() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare a gRPC request with 60 MiB of ``int_contents``."""
    message = typed("ints", "INT32", "int_contents", [1] * (60 * MIB))
    return lambda where: ask_grpc(where, "ModelInfer", message)


def typed_right() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare a valid gRPC request with nearly 4 MiB of ``fp32_contents``."""
    message = typed("row", "FP32", "fp32_contents", [0.5] * (MIB - 64))
    return lambda where: ask_grpc(where, "ModelInfer", message)


def compressed_bombs() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare twelve bodies of 260 kB that unpack to 255 MiB. The bodies are sent at the same time."""
    packed = zlib.compress(bytes(255 * MIB), 9)
    request = post("/v2/models/row/infer", packed, Content_Encoding="deflate")
    return lambda where: ask_http(where, *[request] * 12)


def compressed_right() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare a valid request with a body that unpacks to 16 MiB."""
    data = bytes(16 * MIB)
    whole = in_binary("row", data, len(data) // 4, binary_data_output=True)
    head, body = whole.split(b"\r\n\r\n", 1)
    length = head.rsplit(b": ", 1)[1].decode()
    packed = zlib.compress(body, 1)
    request = post("/v2/models/row/infer", packed, Content_Encoding="deflate", Inference_Header_Content_Length=length)
    return lambda where: ask_http(where, request)


def large_answer() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare a request of a few bytes for a JSON response with 15 Mi elements."""
    request = post("/v2/models/zeros/infer", in_json([1], b"[%d]" % (15 * MIB), "INT64"))
    return lambda where: ask_http(where, request)


def large_answer_right() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare a valid request for 800,000 elements. The response is 15 MB of JSON."""
    request = in_binary("row", struct.pack("<f", 0.1) * 800_000, 800_000)
    return lambda where: ask_http(where, request)


def new_shapes() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare requests with 50,000 shapes that are new to the server."""
    shapes = islice(product(range(1, 16), repeat=INPUTS_OF_MANY), SHAPES)
    requests = (in_binary("many", bytes(4 * sum(shape)), *shape, binary_data_output=True) for shape in shapes)
    return lambda where: ask_many(where, requests)


def new_names() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare requests with 50,000 names of models that do not exist."""
    body = in_json([1, 1], b"[0]")
    requests = (post(f"/v2/models/model-{number}/infer", body) for number in range(NAMES))
    return lambda where: ask_many(where, requests)


async def ask_many(where: Where, requests: Iterator[bytes]) -> Counter[str]:
    """Send requests on a few connections. Each connection sends one request after the other."""
    found: Counter[str] = Counter()

    async def one() -> None:
        connection = await raw_http.connect(where.http)
        for request in requests:
            found[str(await connection.ask(request))] += 1
        connection.transport.close()

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    return found


def descriptions() -> Callable[[Where], Awaitable[Counter[str]]]:
    """Prepare requests for the status, the lists and the statistics of all models, over each protocol."""
    statistics = b"GET /v2/models/stats HTTP/1.1\r\nHost: here\r\n\r\n"
    index = post("/v2/repository/index", b"{}")

    async def ask(where: Where) -> Counter[str]:
        found = await ask_http(where, statistics, statistics, index)
        for method in ("ModelStatistics", "RepositoryIndex"):
            found += await ask_grpc(where, method, b"")
        async with AsyncClient(where.native) as client:
            assert len((await client.status()).models) == len(await client.ls())
            found["native"] += 2
        return found

    return ask


INPUTS = {
    it.__name__: it
    for it in (
        json_lists,
        json_right,
        json_crowd,
        typed_ints,
        typed_right,
        compressed_bombs,
        compressed_right,
        large_answer,
        large_answer_right,
        new_shapes,
        new_names,
        descriptions,
    )
}
ONCE = ("new_shapes", "new_names")
"""Inputs that consist of many requests and are sent once. All other inputs are sent several times."""


async def main(name: str, where: Where) -> None:
    """Prepare the input, wait for a line on stdin, send the input, and print the statuses."""
    send = INPUTS[name]()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    found: Counter[str] = Counter()
    for _ in range(1 if name in ONCE else ROUNDS):
        found += await send(where)
    print(json.dumps(dict(sorted(found.items()))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Where(*sys.argv[2:5])))
