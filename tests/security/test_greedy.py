"""A client that floods a live server gets a response to each request, and other clients are still served."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cli.processes import Process, clockwork
from client.live import run
from clockwork.client import AsyncClient
from clockwork.messages.link import ROLE_CLIENT, Hello
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.net.address import parse_address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.units import seconds
from clockwork.wire.codec import decode_response
from http_raw import connected

MODEL = "resnet50-v100"
IMAGE = spec("data", "FP32", (1, 3, 224, 224))
MANY = 9_600
REFUSED = (Status.SKIPPED_BY_CONTROLLER, Status.CONTROLLER_COULD_NOT_START_IN_TIME)
SERVE = (
    "serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--no-profile-cache", "--profile-seconds=0.02",
    "--max-batch=16", "--emulate=2", f"--profile={MODEL}",
)  # fmt: skip


class Raw:
    """A native client that sends any request and collects the responses to each id."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answers: dict[int, list[InferResponse]] = {}

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answers in self.answers.values() for answer in answers)

    def ask(self, request: InferRequest, *payload: bytes) -> None:
        self.connection.send(request, payload)

    async def answer_to(self, request: InferRequest, *payload: bytes) -> InferResponse:
        """Return the response to one request. A second response to an earlier request would have arrived by then."""
        count = len(self.answers)
        self.ask(request, *payload)
        await self.answered(count + 1)
        return self.answers[request.id][0]

    async def answered(self, count: int) -> None:
        while len(self.answers) < count:
            assert not self.connection.closing
            await asyncio.sleep(0.01)


@asynccontextmanager
async def raw_client(address: str) -> AsyncIterator[Raw]:
    clients: list[Raw] = []

    def on_message(connection: Connection, message: Any, payload: Any) -> None:
        assert isinstance(message, InferResponse)
        clients[0].answers.setdefault(message.id, []).append(message)

    connection = await dial(
        parse_address(address, 0),
        Hello(ROLE_CLIENT, "", "raw"),
        decode=decode_response,
        on_message=on_message,
        on_closed=lambda connection, reason: None,
    )
    clients.append(Raw(connection))
    yield clients[0]
    connection.close("done")
    await connection.closed


async def slowest_other(http: Any, client: AsyncClient, until: asyncio.Future[None]) -> tuple[float, int]:
    """Return the longest time of a health check plus another client's ls until ``until`` is done, and their number."""
    slowest, count = 0.0, 0
    async with connected(http) as peer:
        while not until.done() or not count:
            begun = time.monotonic()
            assert (await peer.ask("GET", "/v2/health/live")).status == 200
            assert await client.ls()
            slowest = max(slowest, time.monotonic() - begun)
            count += 1
            await asyncio.sleep(0.005)
    return slowest, count


def http_address(process: Process) -> Any:
    return parse_address(process.out.wait_for(r"serves HTTP on (\S+)$")[1], 0)


def test_thousands_of_generated_requests_get_one_response_each_and_do_not_delay_other_clients() -> None:
    async def test(process: Process) -> None:
        address = process.address()
        async with raw_client(address) as raw, AsyncClient(address) as other:
            for number in range(MANY):  # 5.8 GB, once the worker has generated them
                raw.ask(InferRequest(number, MODEL, (IMAGE,), seconds(3), generated=True))
            done = asyncio.ensure_future(raw.answered(MANY))
            slowest, count = await slowest_other(http_address(process), other, done)
            await raw.answer_to(InferRequest(MANY, MODEL, (IMAGE,), seconds(3), generated=True))
            assert {len(answers) for answers in raw.answers.values()} == {1}
            assert set(raw.statuses()) <= {Status.SUCCESS, Status.TIMEOUT, *REFUSED}
            assert raw.statuses()[Status.SUCCESS] > 100
            refused = sum(answer.status in REFUSED for (answer,) in raw.answers.values())
            assert refused > MANY // 2  # beyond the limits of the connection, or too late on a busy machine
            assert (slowest < 1, count > 10) == (True, True), f"the slowest of {count} took {slowest:.3f} s"

    with clockwork(*SERVE) as process:
        run(test(process))
    assert not [line for line in process.err.seen if "lost" in line]


@pytest.mark.parametrize(
    ("outputs", "status"),
    [(("prob",) * 100_000, Status.INVALID_REQUEST), (("prob",) * 256, Status.SUCCESS)],
    ids=["100,000", "256"],
)
def test_a_request_for_very_many_outputs_does_not_cost_a_worker(outputs: tuple[str, ...], status: Status) -> None:
    async def test(process: Process) -> None:
        async with raw_client(process.address()) as raw:
            image = bytes(IMAGE.nbytes)
            answer = await raw.answer_to(InferRequest(1, MODEL, (IMAGE,), seconds(10), None, outputs), image)
            assert answer.status == status
            if status == Status.SUCCESS:
                assert [tensor.name for tensor in answer.outputs] == ["prob"]
            else:
                assert answer.message == "request has 100000 outputs; at most 256 are accepted"
            answer = await raw.answer_to(InferRequest(2, MODEL, (IMAGE,), seconds(10)), image)
            assert answer.status == Status.SUCCESS

    with clockwork(*SERVE) as process:
        run(test(process))
    assert not [line for line in process.err.seen if "lost" in line]


def test_a_controller_that_is_stopped_for_seconds_loses_no_worker_and_no_response() -> None:
    async def test(process: Process) -> None:
        async with raw_client(process.address()) as raw:
            for number in range(600):
                if number == 100:
                    process.send(signal.SIGSTOP)
                elif number == 400:
                    process.send(signal.SIGCONT)
                raw.ask(InferRequest(number, MODEL, (IMAGE,), seconds(20), generated=True))
                await asyncio.sleep(0.01)
            await raw.answered(600)
            await raw.answer_to(InferRequest(600, MODEL, (IMAGE,), seconds(20), generated=True))
            assert {len(answers) for answers in raw.answers.values()} == {1}
            assert raw.statuses() == {Status.SUCCESS: 601}

    with clockwork(*SERVE) as process:
        run(test(process))
    assert not [line for line in process.err.seen if "lost" in line or "nothing was received" in line]
