"""Which deadline counts: the tightest in the request, else its model's default, else the server's."""

from typing import Any, ClassVar

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client.live import LOOPBACK, run
from clockwork.grpc_frontend import serve_grpc
from clockwork.messages.commands import Answer
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos, as_seconds, ms, seconds
from http_raw import row, served

SERVER, MODEL = seconds(30), seconds(50)


class Notes(EchoScheduler):
    """Records the SLO of each request."""

    name: ClassVar[str] = "notes"

    def __init__(self) -> None:
        super().__init__()
        self.slos: list[Nanos] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.slos.append(request.deadline - request.arrival)
        return super().infer(now, request)


#: Parameters of a request, and its SLO if the model has its own default.
TABLE: list[tuple[dict[str, Any], Nanos]] = [
    ({}, MODEL),
    ({"timeout": 0}, MODEL),
    ({"timeout": 7_000_000}, seconds(7)),
    ({"slo_ms": 9_000}, seconds(9)),
    ({"slo_ms": "9000.5"}, ms(9000.5)),
    ({"timeout": 7_000_000, "slo_ms": 9_000}, seconds(7)),
    ({"timeout": 9_000_000, "slo_ms": 7_000}, seconds(7)),
    ({"timeout": 0, "slo_ms": 7_000}, seconds(7)),
    ({"slo_ms": 70_000}, seconds(70)),  # a default is not a limit
    ({"slo_ms": 7_000, "priority": 1}, seconds(7)),
]


def test_over_http() -> None:
    async def test() -> None:
        notes = Notes()
        async with served(notes, default_slo=SERVER, model_slos={"m": MODEL}) as (peer, *_):
            for parameters, slo in TABLE:
                assert (await peer.ask("POST", "/v2/models/m/infer", row(parameters=parameters))).status == 200
                waited = 1 if slo == MODEL else seconds(1)
                assert slo - waited < notes.slos[-1] <= slo, parameters  # counted from the first byte

    run(test())


def message(parameters: dict[str, Any]) -> Any:
    contents = pb.InferTensorContents(fp32_contents=[1, 1, 1, 1])
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4], contents=contents)
    request = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    for name, value in parameters.items():
        if isinstance(value, str):
            request.parameters[name].string_param = value
        else:
            request.parameters[name].int64_param = value
    return request


@pytest.mark.parametrize("call_timeout", [None, 600.0, 5.0])
def test_over_grpc_with_the_deadline_call_timeout(call_timeout: float | None) -> None:
    async def test() -> None:
        notes = Notes()
        async with (
            served(notes, default_slo=SERVER, model_slos={"m": MODEL}) as (_, _, host, _),
            serve_grpc(host, LOOPBACK) as server,
            grpc.aio.insecure_channel(str(server.address)) as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for parameters, slo in TABLE:
                await stub.ModelInfer(message(parameters), timeout=call_timeout)
                has_slo = any(parameters.get(name) for name in ("timeout", "slo_ms"))
                if call_timeout is None or (has_slo and call_timeout > as_seconds(slo)):
                    waited = 1 if slo == MODEL else seconds(1)
                    assert slo - waited < notes.slos[-1] <= slo, (
                        parameters
                    )  # counted from the time when the call was taken
                else:  # the time left when the call arrives; gRPC rounds it up
                    assert 0 < notes.slos[-1] <= seconds(1.1 * call_timeout), parameters

    run(test())


def test_a_model_without_a_default_uses_the_servers() -> None:
    async def test() -> None:
        notes = Notes()
        async with served(notes, default_slo=SERVER, model_slos={"other": MODEL}) as (peer, *_):
            await peer.ask("POST", "/v2/models/m/infer", row())
            assert notes.slos == [SERVER]

    run(test())
