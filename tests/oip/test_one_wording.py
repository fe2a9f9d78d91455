"""A fault has the same text over HTTP, over gRPC, in the native client and on the command line."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client.live import LOOPBACK, run
from clockwork.arrays import to_payload
from clockwork.cli import run as command
from clockwork.client import AsyncClient
from clockwork.errors import ClockworkError
from clockwork.grpc_frontend import serve_grpc
from clockwork.host.controller import ControllerHost
from clockwork.http.server import serving_http
from clockwork.messages.commands import Answer
from clockwork.messages.status import Status
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import PendingRequest
from clockwork.units import SECOND, Nanos, seconds
from http_raw import connected, served
from security.test_tokens import READER, guarded

ROW = np.ones((1, 4), np.float32)
TOO_LATE = "predicted completion is 5 ms past the deadline"
ALL = ("http", "grpc", "native", "command")


class Request(NamedTuple):
    model: str = "m"
    inputs: Mapping[str, Any] = {"x": ROW}
    version: str = ""
    slo_ms: int | None = None
    outputs: tuple[str, ...] = ()


class Fault(NamedTuple):
    text: str
    request: Request
    protocols: tuple[str, ...] = ALL  #: those that can express the request


TAKES = "model m takes x FP32[-1,4]"
FAULTS = {
    "unknown model": Fault("model 'nobody' is unknown; served models: m", Request("nobody")),
    "unknown version": Fault(
        "model 'm' has no version '2'; served versions: 1", Request(version="2"), ("http", "grpc")
    ),
    "missing input": Fault(f"input 'x' is missing; {TAKES}", Request(inputs={}), ("http", "grpc", "native")),
    "unknown input": Fault(f"input 'z' is unknown; {TAKES}", Request(inputs={"z": ROW})),
    "datatype": Fault(
        f"input 'x' has datatype INT64; {TAKES}",
        Request(inputs={"x": ROW.astype(np.int64)}),
        ("http", "grpc", "native"),  # the command line converts numbers
    ),
    "shape": Fault(f"input 'x' has shape [1, 5]; {TAKES}", Request(inputs={"x": np.ones((1, 5), np.float32)})),
    "rows": Fault(
        "request has 100 rows; model m takes 1 to 4 rows in one request",
        Request(inputs={"x": np.ones((100, 4), np.float32)}),
    ),
    "unknown output": Fault(
        "output 'q' is unknown; model m has y", Request(outputs=("q",)), ("http", "grpc", "native")
    ),
    "parameter": Fault("slo_ms is -1; it must be a number from 0 to 1e+15", Request(slo_ms=-1), ("http", "grpc")),
    "deadline": Fault(TOO_LATE, Request(slo_ms=500)),
}


class Picky(SimpleScheduler):
    """Refuses requests with less than a second left."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        if request.deadline - now < SECOND:
            return [Answer(request.id, Status.CONTROLLER_COULD_NOT_START_IN_TIME, TOO_LATE)]
        return super().infer(now, request)


class Asker:
    """Sends one request over each protocol to one server, and returns the error text."""

    def __init__(self, host: ControllerHost, http: Any, grpc_address: str, directory: Path, capture: Any) -> None:
        self.host, self.http_address, self.grpc_address = host, http, grpc_address
        self.directory, self.capture = directory, capture

    async def http(self, request: Request) -> str:
        tensors = [
            {"name": name, "datatype": to_payload(array)[0], "shape": array.shape, "data": array.tolist()}
            for name, array in request.inputs.items()
        ]
        content: dict[str, Any] = {"inputs": tensors, "outputs": [{"name": name} for name in request.outputs]}
        if request.slo_ms is not None:
            content["parameters"] = {"slo_ms": request.slo_ms}
        version = f"/versions/{request.version}" if request.version else ""
        async with connected(self.http_address) as peer:
            path = f"/v2/models/{request.model}{version}/infer"
            return str((await peer.ask("POST", path, json.dumps(content).encode())).json()["error"])

    async def grpc(self, request: Request) -> str:
        message = pb.ModelInferRequest(model_name=request.model, model_version=request.version)
        for name, array in request.inputs.items():
            datatype, shape, data = to_payload(array)
            message.inputs.add(name=name, datatype=datatype, shape=shape)
            message.raw_input_contents.append(bytes(data))
        for name in request.outputs:
            message.outputs.add(name=name)
        if request.slo_ms is not None:
            message.parameters["slo_ms"].int64_param = request.slo_ms
        async with grpc.aio.insecure_channel(self.grpc_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)
            return str(caught.value.details())

    async def native(self, request: Request) -> str:
        slo = None if request.slo_ms is None else request.slo_ms / 1000
        async with AsyncClient(str(self.host.client_address)) as client:
            with pytest.raises(ClockworkError) as caught:
                await client.infer(request.model, request.inputs, slo=slo, outputs=request.outputs)
            return str(caught.value)

    async def command(self, request: Request) -> str:
        arguments = ["infer", request.model, f"--address={self.host.client_address}"]
        for name, array in request.inputs.items():
            np.save(self.directory / f"{name}.npy", array)
            arguments.append(f"--input={name}={self.directory / name}.npy")
        if request.slo_ms is not None:
            arguments.append(f"--slo={request.slo_ms}ms")
        return await failed_command(arguments, self.capture)


async def failed_command(arguments: list[str], capture: Any) -> str:
    """Run a command that fails in one line; return that line without its prefix."""
    capture.readouterr()
    assert await asyncio.to_thread(command, arguments) == 1
    (line,) = capture.readouterr().err.splitlines()
    assert line.startswith("clockwork: ")
    return str(line.removeprefix("clockwork: "))


ADDED = re.compile(r" \((deadline of [0-9.]+ ms from [^)]+|clockwork explain \S+ shows the details)\)$")
"""Text that some interfaces add to the text of a fault.

HTTP and gRPC add the source of a missed deadline, because a client may not know which parameter set the deadline. The
command line adds the command that explains the request.
"""


@asynccontextmanager
async def asker(directory: Path, capture: Any) -> AsyncIterator[Asker]:
    async with served(Picky()) as (_, address, host, _), serve_grpc(host, LOOPBACK) as server:
        yield Asker(host, address, str(server.address), directory, capture)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_the_same_text_everywhere(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault = FAULTS[name]

    async def test() -> None:
        async with asker(tmp_path, capsys) as ask:
            texts = {protocol: await getattr(ask, protocol)(fault.request) for protocol in fault.protocols}
            without_source = {protocol: ADDED.sub("", text) for protocol, text in texts.items()}
            assert without_source == dict.fromkeys(fault.protocols, fault.text)

    run(test())


def test_a_server_that_shuts_down_has_the_same_text_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        async with asker(tmp_path, capsys) as ask:
            await ask.host.drain(seconds(1))
            texts = {protocol: await getattr(ask, protocol)(Request()) for protocol in ("http", "grpc", "native")}
            assert len(set(texts.values())) == 1, texts
            assert "shutting down" in texts["http"]

    run(test())


def test_a_token_without_the_right_has_the_same_text_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(READER)
    (tmp_path / "token").chmod(0o600)

    async def test() -> None:
        async with guarded() as host, serving_http(host, LOOPBACK) as http, serve_grpc(host, LOOPBACK) as server:

            async def over_http() -> str:
                async with connected(http) as peer:
                    bearer: dict[str, Any] = {"Authorization": f"Bearer {READER}"}
                    return str((await peer.ask("POST", "/v2/repository/models/n/load", **bearer)).json()["error"])

            async def over_grpc() -> str:
                async with grpc.aio.insecure_channel(str(server.address)) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    load = pb.RepositoryModelLoadRequest(model_name="n")
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await stub.RepositoryModelLoad(load, metadata=[("authorization", f"Bearer {READER}")])
                    return str(caught.value.details())

            async def native() -> str:
                async with AsyncClient(str(host.client_address), token=READER) as client:
                    with pytest.raises(ClockworkError) as caught:
                        await client.load_model("n")
                    return str(caught.value)

            async def by_command() -> str:
                options = [f"--address={host.client_address}", f"--token-file={tmp_path / 'token'}"]
                return await failed_command(["load", "n", *options], capsys)

            ways: list[Callable[[], Awaitable[str]]] = [over_http, over_grpc, native, by_command]
            texts = [await way() for way in ways]
            assert len(set(texts)) == 1, texts

    run(test())
