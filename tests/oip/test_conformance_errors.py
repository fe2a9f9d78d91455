"""Each status of a request as HTTP, gRPC and the native client report it, and as it is counted."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client.live import LOOPBACK, run
from clockwork.client import AsyncClient
from clockwork.errors import (
    ClockworkError,
    DeadlineError,
    InitializingError,
    InvalidModelError,
    InvalidRequestError,
    NotPermittedError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
)
from clockwork.grpc_frontend import serve_grpc
from clockwork.messages.commands import Answer
from clockwork.messages.requests import ErrorResponse, ModelStatus, StatusRequest, StatusResponse
from clockwork.messages.status import Status
from clockwork.net.address import Address
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos
from http_raw import connected, row, served

PREDICTED, RETRY_AFTER = 25_000_000, 1_200_000_000


class Report(NamedTuple):
    http: int
    grpc: str
    native: type[ClockworkError]
    counted: str  # the counter of `clockwork status`


#: A status without a row is a failure of the server.
TABLE = {
    Status.TIMEOUT: Report(504, "DEADLINE_EXCEEDED", RequestTimeoutError, "late"),
    Status.CONTROLLER_COULD_NOT_START_IN_TIME: Report(503, "RESOURCE_EXHAUSTED", RequestRefusedError, "refused"),
    Status.SKIPPED_BY_CONTROLLER: Report(503, "RESOURCE_EXHAUSTED", RequestRefusedError, "refused"),
    Status.INITIALIZING: Report(503, "UNAVAILABLE", InitializingError, "failed"),
    Status.SHUTTING_DOWN: Report(503, "UNAVAILABLE", ServerError, "failed"),
    Status.INVALID_REQUEST: Report(400, "INVALID_ARGUMENT", InvalidRequestError, "failed"),
    Status.INVALID_INPUT: Report(400, "INVALID_ARGUMENT", InvalidRequestError, "failed"),
    Status.INVALID_BATCH_SIZE: Report(400, "INVALID_ARGUMENT", InvalidRequestError, "failed"),
    Status.UNKNOWN_MODEL: Report(404, "NOT_FOUND", UnknownModelError, "failed"),
    Status.INVALID_MODEL_NAME: Report(400, "INVALID_ARGUMENT", InvalidModelError, "failed"),
    Status.INVALID_MODEL_PATH: Report(400, "INVALID_ARGUMENT", InvalidModelError, "failed"),
    Status.INVALID_MODEL: Report(400, "INVALID_ARGUMENT", InvalidModelError, "failed"),
    Status.MODEL_TOO_BIG: Report(400, "INVALID_ARGUMENT", InvalidModelError, "failed"),
    Status.NOT_AUTHENTICATED: Report(401, "UNAUTHENTICATED", NotPermittedError, "failed"),
    Status.NOT_PERMITTED: Report(403, "PERMISSION_DENIED", NotPermittedError, "failed"),
    Status.CANCELLED: Report(499, "CANCELLED", ServerError, ""),
}
FAILURES = [status for status in Status if status != Status.SUCCESS]


class FixedStatus(EchoScheduler):
    """Answers each request with the status in ``status``."""

    name: ClassVar[str] = "fixed-status"
    status = Status.ERROR

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        return [Answer(request.id, self.status, "no, for a reason", predicted=PREDICTED, retry_after=RETRY_AFTER)]


@asynccontextmanager
async def protocols(scheduler: FixedStatus) -> AsyncIterator[tuple[Address, Any, AsyncClient, Any]]:
    """Yield HTTP's address, a connection of each other protocol, and a function that returns the model's counts."""
    async with served(scheduler) as (_, address, host, _), serve_grpc(host, LOOPBACK) as server:
        local = host.local_client()

        async def counts() -> ModelStatus:
            response, _ = await local.ask(StatusRequest(local.next_id()))
            assert isinstance(response, StatusResponse)
            return response.server.models[0]

        async with (
            grpc.aio.insecure_channel(str(server.address)) as channel,
            AsyncClient(str(host.client_address)) as native,
        ):
            yield address, service_pb2_grpc.GRPCInferenceServiceStub(channel), native, counts


def message() -> Any:
    contents = pb.InferTensorContents(fp32_contents=[1, 1, 1, 1])
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4], contents=contents)
    return pb.ModelInferRequest(model_name="m", inputs=[tensor])


def text_of(status: Status) -> str:
    """Return the text of a status over HTTP and gRPC; that of a missed deadline has the deadline and its source."""
    missed = status in (Status.TIMEOUT, Status.CONTROLLER_COULD_NOT_START_IN_TIME)
    return "no, for a reason" + missed * " (deadline of 20000 ms from the default SLO of the model)"


async def check_http(address: Address, status: Status, report: Report) -> None:
    async with connected(address) as peer:  # the server closes the connection when it shuts down
        reply = await peer.ask("POST", "/v2/models/m/infer", row())
    assert reply.status == report.http
    assert reply.headers["retry-after"] == "2"  # whole seconds, rounded up
    body = json.loads(reply.body)
    assert body.pop("id") == reply.headers["clockwork-request-id"]
    assert body == {
        "error": text_of(status),
        "status": int(status),
        "status_name": status.name,
        "predicted_ms": 25.0,
        "retry_after_ms": 1200.0,
    }


async def check_grpc(stub: Any, status: Status, report: Report) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message())
    assert caught.value.code().name == report.grpc
    assert caught.value.details() == text_of(status)
    trailer = dict(caught.value.trailing_metadata())
    assert trailer.pop("clockwork-request-id")
    assert {name: value for name, value in trailer.items() if name.startswith("clockwork-")} == {
        "clockwork-status": str(int(status)),
        "clockwork-status-name": status.name,
        "clockwork-predicted-ms": "25.000",
        "clockwork-retry-after-ms": "1200.000",
    }


async def check_native(client: AsyncClient, status: Status, report: Report) -> None:
    with pytest.raises(ClockworkError) as caught:
        await client.infer("m", {"x": np.ones((1, 4), np.float32)})
    error = caught.value
    assert type(error) is report.native
    assert (str(error), error.status, error.status_name) == ("no, for a reason", int(status), status.name)
    if isinstance(error, DeadlineError):
        assert (error.predicted, error.retry_after) == (0.025, 1.2)


def test_every_status_is_reported_by_every_protocol_and_counted_by_reason() -> None:
    async def test() -> None:
        scheduler = FixedStatus()
        async with protocols(scheduler) as (address, stub, native, counts):
            for status in FAILURES:
                report = TABLE.get(status, Report(500, "INTERNAL", ServerError, "failed"))
                scheduler.status = status
                before = await counts()
                await check_http(address, status, report)
                await check_grpc(stub, status, report)
                await check_native(native, status, report)
                after = await counts()
                grown = {
                    name: getattr(after, name) - getattr(before, name)
                    for name in ("in_time", "late", "refused", "failed")
                    if getattr(after, name) != getattr(before, name)
                }
                assert grown == ({report.counted: 3} if report.counted else {}), status
                assert after.counts.answers[status.name] == before.counts.answers.get(status.name, 0) + 3

    run(test())


def test_an_error_response_is_a_failure_of_the_server() -> None:
    from clockwork.client.status_errors import error_for_status
    from clockwork.oip.failures import Failure

    response = ErrorResponse(1, Status.ERROR, "the answer cannot be sent")
    report = Failure.from_status(response.status, response.message)
    assert (report.http, report.grpc) == (500, "INTERNAL")
    assert isinstance(error_for_status(response.status, response.message), ServerError)
