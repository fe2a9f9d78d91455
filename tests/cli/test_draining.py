"""Processes that receive a signal while requests are pending."""

import asyncio
import signal
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from cli.processes import QUICK, Process, clockwork
from client.live import run
from clockwork.client import AsyncClient
from clockwork.errors import ConnectionLostError
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.units import seconds

EMULATED = ("--emulate=1", "--profile=resnet50-v100")
LOOPBACK = "--listen=127.0.0.1:0"
PORTS = (LOOPBACK, "--worker-listen=127.0.0.1:0")
IMAGE = (spec("data", "FP32", (1, 3, 224, 224)),)
IN_FLIGHT = 300
"""Requests of 2.7 ms each, so that the drain takes most of a second. A larger burst would be refused."""


async def ask(client: AsyncClient, slo: float = 60) -> Status:
    """Send a request; return the status of its response."""
    response = await client.ask("resnet50-v100", IMAGE, slo_ns=seconds(slo), generated=True)
    return Status(response.status)


async def until_pending(client: AsyncClient, count: int) -> None:
    while (await client.status()).outstanding < count:  # noqa: ASYNC110 - the status can only be polled
        await asyncio.sleep(0.005)


async def until_taken_in(client: AsyncClient, count: int) -> None:
    """Wait until ``count`` requests are pending or have a response; unread requests would be refused in the drain."""
    while True:
        status = await client.status()
        (model,) = status.models
        if status.outstanding + model.in_time + model.late + model.refused + model.failed >= count:
            return
        await asyncio.sleep(0.005)


def ready(where: str) -> int:
    """Return the HTTP status of readiness; 0 if the port is closed."""
    try:
        with urlopen(f"http://{where}/v2/health/ready") as answer:
            status: int = answer.status
            return status
    except HTTPError as error:
        return error.code
    except URLError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pending_requests_get_responses_and_new_requests_are_refused(number: signal.Signals) -> None:
    quick = ("--profile-seconds=0.01", "--max-batch=1", "--no-profile-cache")
    with clockwork("serve", LOOPBACK, "--http=127.0.0.1:0", *quick, *EMULATED, "--drain-limit=1min") as process:
        where = process.out.wait_for(r"HTTP on (\S+)$")[1]
        address = process.address()
        assert ready(where) == 200

        async def test() -> None:
            async with AsyncClient(address) as client:
                pending = [asyncio.ensure_future(ask(client)) for _ in range(IN_FLIGHT)]
                await until_taken_in(client, IN_FLIGHT)
                process.send(number)
                while (found := await asyncio.to_thread(ready, where)) == 200:
                    pass
                assert found == 503
                assert (await client.status()).stage == "draining"
                async with AsyncClient(address) as late:
                    assert await ask(late) is Status.SHUTTING_DOWN
                outcomes = set(await asyncio.gather(*pending))
                assert outcomes == {Status.SUCCESS}

        run(test())
        assert process.ended() == 0
    assert any("drained: no request is pending" in line for line in process.err.seen)
    assert not process.problems()


def stop_worker_of(controller: Process, worker: Process) -> None:
    """Stop the worker process, so that it sends no more results."""
    controller.address()
    worker.send(signal.SIGSTOP)


def test_the_drain_limit_ends_a_drain_with_a_hanging_worker() -> None:
    with clockwork("controller", *PORTS, *QUICK, "--load-timeout=50ms", "--drain-limit=300ms") as controller:
        found = controller.err.wait_for(r"listening for clients on (\S+), for workers on (\S+)$")
        with clockwork("worker", f"--controller={found[2]}", *EMULATED) as worker:

            async def test() -> None:
                async with AsyncClient(found[1]) as client:
                    await client.load_model("resnet50-v100")
                    stop_worker_of(controller, worker)
                    pending = [asyncio.ensure_future(ask(client)) for _ in range(3)]
                    await until_pending(client, 3)
                    controller.send(signal.SIGTERM)
                    assert await asyncio.gather(*pending) == [Status.SHUTTING_DOWN] * 3

            run(test())
            assert controller.ended() == 0
    assert any("the drain reached its limit of 300 ms: 3 requests" in line for line in controller.err.seen)


def test_a_second_signal_ends_the_controller_at_once() -> None:
    with clockwork("controller", *PORTS, *QUICK, "--load-timeout=50ms", "--drain-limit=10min") as controller:
        found = controller.err.wait_for(r"listening for clients on (\S+), for workers on (\S+)$")
        with clockwork("worker", f"--controller={found[2]}", *EMULATED) as worker:

            async def test() -> None:
                async with AsyncClient(found[1]) as client:
                    await client.load_model("resnet50-v100")
                    stop_worker_of(controller, worker)
                    pending = asyncio.ensure_future(ask(client, 600))
                    await until_pending(client, 1)
                    controller.send(signal.SIGTERM)
                    await asyncio.to_thread(controller.err.wait_for, "draining: 1 requests are pending")
                    controller.send(signal.SIGTERM)
                    with pytest.raises(ConnectionLostError):
                        await pending

            run(test())
            assert controller.ended() == -signal.SIGTERM


@pytest.mark.parametrize("stage", ["listening for clients", "stage: loading", "stage: profiling"])
def test_a_signal_during_start_up_ends_serve(stage: str) -> None:
    with clockwork("serve", LOOPBACK, "--http=none", "--no-profile-cache", *EMULATED, "--copies=20") as process:
        process.err.wait_for(stage)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
    assert not process.problems()
