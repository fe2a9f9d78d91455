"""Clients with a live controller: their results, and the state that they leave on the server."""

import asyncio
from typing import Any

import numpy as np
import pytest

from client.live import ScriptedWorker, controller, run, serving
from clockwork.client import AsyncClient, Client, InferenceResult
from clockwork.client.status_errors import error_for_status
from clockwork.errors import (
    ClockworkError,
    ConnectionLostError,
    InitializingError,
    InvalidModelError,
    InvalidRequestError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
)
from clockwork.messages.actions import EvictWeights, Infer, LoadModelFromDisk
from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos, ms, seconds

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)


def real_infer(action: Any) -> bool:
    """Whether the action is an Infer for a client, not for profiling."""
    return isinstance(action, Infer) and not action.inputs[0].generated


def test_each_request_gets_its_own_outputs() -> None:
    async def test() -> None:
        async with serving() as (host, _), AsyncClient(str(host.client_address)) as client:
            model = client.model("m")
            results = await asyncio.gather(*(model.infer({"x": ROW + i}) for i in range(200)))
            for i, result in enumerate(results):
                np.testing.assert_array_equal(result["y"], 2 * (ROW + i))
                assert result.timing.batch_size == 1

    run(test())


def test_the_echo_scheduler_returns_the_inputs() -> None:
    async def test() -> None:
        async with serving(EchoScheduler()) as (host, worker), AsyncClient(str(host.client_address)) as client:
            result = await client.infer("m", {"x": ROW})
            np.testing.assert_array_equal(result["x"], ROW)
            assert not any(real_infer(action) for action in worker.seen)

    run(test())


def test_ls_and_status_describe_the_served_models() -> None:
    async def test() -> None:
        async with serving() as (host, _), AsyncClient(str(host.client_address)) as client:
            (model,) = await client.ls()
            assert (model.name, model.max_batch_size) == ("m", 4)
            assert model.inputs[0].describe() == "x FP32[-1,4]"
            await client.infer("m", {"x": ROW})
            status = await client.status()
            assert status.stage == "serving"
            assert status.scheduler == "simple"
            assert status.models[0].in_time == 1
            assert status.workers[0].ready
            assert status.workers[0].gpus[0].gpu.models == ("m",)

    run(test())


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"z": ROW}, "input 'z' is unknown"),
        ({}, "input 'x' is missing"),
        ({"x": ROW, "extra": ROW}, "input 'extra' is unknown"),
        ({"x": ROW.astype(np.float64)}, "has datatype FP64"),
        ({"x": ROW[:, :3]}, "shape [1, 3]"),
        ({"x": ROW[0]}, "shape [4]"),
        ({"x": np.zeros((5, 4), np.float32)}, "1 to 4 rows"),
        ({"x": np.zeros((0, 4), np.float32)}, "request has 0 rows"),
    ],
)
def test_the_error_for_a_wrong_input_names_it(inputs: dict[str, Any], text: str) -> None:
    async def test() -> None:
        async with serving() as (host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(InvalidRequestError) as caught:
                await client.infer("m", inputs)
            assert text in str(caught.value)
            np.testing.assert_array_equal((await client.infer("m", {"x": ROW}))["y"], 2 * ROW)

    run(test())


def test_the_error_for_an_unknown_model_lists_the_served_models() -> None:
    async def test() -> None:
        async with serving() as (host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(UnknownModelError, match="model 'n' is unknown; served models: m"):
                await client.infer("n", {"x": ROW})
            with pytest.raises(UnknownModelError):
                await client.evict("n")

    run(test())


@pytest.mark.parametrize("slo", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_slo_is_refused(slo: float) -> None:
    async def test() -> None:
        async with serving() as (host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(InvalidRequestError, match="slo"):
                await client.infer("m", {"x": ROW}, slo=slo)
            with pytest.raises(InvalidRequestError, match="slo"):
                await client.infer("m", {"x": ROW}, slo_factor=slo)

    run(test())


def test_a_request_times_out_at_its_deadline() -> None:
    async def test() -> None:
        async with serving(holds=real_infer) as (host, worker), AsyncClient(str(host.client_address)) as client:
            await client.ls()
            with pytest.raises(RequestTimeoutError) as caught:
                await client.infer("m", {"x": ROW}, slo=0.02)
            assert caught.value.status == Status.TIMEOUT
            for held in worker.held:
                worker.answer(*held)  # too late: the request has timed out
            assert (await client.status()).models[0].late == 1

    run(test())


def test_a_failed_execution_fails_only_its_request() -> None:
    async def test() -> None:
        async with serving(holds=real_infer) as (host, worker), AsyncClient(str(host.client_address)) as client:
            call = asyncio.create_task(client.infer("m", {"x": ROW}))
            await worker.until(lambda: len(worker.held) == 1)
            worker.holds = lambda action: False
            assert worker.connection is not None
            worker.connection.send(ErrorResult(worker.held[0][0].id, "Infer", Status.RUNTIME_ERROR, "it broke"))
            with pytest.raises(ServerError, match="it broke"):
                await call
            await client.infer("m", {"x": ROW})

    run(test())


def test_a_cancelled_call_frees_its_place_on_the_server() -> None:
    async def test() -> None:
        async with serving(holds=real_infer) as (host, worker), AsyncClient(str(host.client_address)) as client:
            call = asyncio.create_task(client.infer("m", {"x": ROW}))
            await worker.until(lambda: len(worker.held) == 1)
            assert (await client.status()).outstanding == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await client.status()).outstanding == 0
            with pytest.raises(TimeoutError):
                await client.infer("m", {"x": ROW}, timeout=0.01)
            assert (await client.status()).outstanding == 0

    run(test())


def test_a_client_that_disconnects_frees_its_places() -> None:
    async def test() -> None:
        async with serving(holds=real_infer) as (host, worker), AsyncClient(str(host.client_address)) as watcher:
            async with AsyncClient(str(host.client_address)) as client:
                calls = [asyncio.create_task(client.infer("m", {"x": ROW})) for _ in range(5)]
                await worker.until(lambda: len(worker.held) == 3)  # `simple` sends three actions at once
            for call in calls:
                with pytest.raises(ConnectionLostError):
                    await call
            while (await watcher.status()).outstanding:
                pass

    run(test())


def test_evict_makes_the_next_request_cold() -> None:
    async def test() -> None:
        async with serving() as (host, worker), AsyncClient(str(host.client_address)) as client:
            await client.infer("m", {"x": ROW})
            assert not (await client.infer("m", {"x": ROW})).timing.cold_start
            evictions = sum(isinstance(action, EvictWeights) for action in worker.seen)
            assert await client.model("m").evict() == 1
            assert sum(isinstance(action, EvictWeights) for action in worker.seen) == evictions + 1
            assert (await client.infer("m", {"x": ROW})).timing.cold_start

    run(test())


def test_a_client_can_load_models_before_serving_but_not_after() -> None:
    async def test() -> None:
        async with controller(models=(), load_timeout=ms(50)) as host, AsyncClient(str(host.client_address)) as client:
            early = asyncio.create_task(client.load_model("zoo/a.onnx"))  # waits for a worker
            while (await client.status()).stage != "querying":
                pass
            worker = ScriptedWorker()
            await worker.connect(host)
            assert await early == ["a"]
            assert await client.load_model("zoo/b.onnx", copies=3) == ["b-1", "b-2", "b-3"]
            with pytest.raises(InvalidRequestError, match="no_of_copies is 0"):
                await client.load_model("zoo/c.onnx", copies=0)
            with pytest.raises(InvalidRequestError, match="no_of_copies is 1000000"):
                await client.load_model("zoo/c.onnx", copies=1_000_000)
            assert [model.name for model in await client.ls()] == ["a", "b-1", "b-2", "b-3"]
            with pytest.raises(InvalidRequestError, match="at start-up only"):
                await client.load_model("zoo/d.onnx")
            assert sum(isinstance(action, LoadModelFromDisk) for action in worker.seen) == 2

    run(test())


def test_requests_before_serving_fail_after_a_time_limit() -> None:
    async def test() -> None:
        async with (
            controller(models=(), initializing_timeout=ms(20)) as host,
            AsyncClient(str(host.client_address)) as client,
        ):
            with pytest.raises(InitializingError):
                await client.ls()
            with pytest.raises(InitializingError):
                await client.infer("m", {"x": ROW})
            with pytest.raises(InitializingError):
                await client.evict("m")

    run(test())


def test_a_full_server_refuses_requests() -> None:
    async def test() -> None:
        async with (
            serving(holds=real_infer, max_pending=2) as (host, worker),
            AsyncClient(str(host.client_address)) as client,
        ):
            calls = [asyncio.create_task(client.infer("m", {"x": ROW})) for _ in range(2)]
            await worker.until(lambda: len(worker.held) == 2)
            with pytest.raises(RequestRefusedError, match="full"):
                await client.infer("m", {"x": ROW})
            for held in worker.held:
                worker.answer(*held)
            await asyncio.gather(*calls)

    run(test())


def test_calls_fail_when_the_server_closes() -> None:
    async def test() -> None:
        async with serving(holds=real_infer) as (host, worker), AsyncClient(str(host.client_address)) as client:
            call = asyncio.create_task(client.infer("m", {"x": ROW}))
            await worker.until(lambda: len(worker.held) == 1)
            await host.close()
            with pytest.raises(ConnectionLostError, match="shutting down"):
                await call
            with pytest.raises(ConnectionLostError):
                await client.infer("m", {"x": ROW})

    run(test())


def test_the_error_for_a_missing_server_names_the_address() -> None:
    async def test() -> None:
        async with controller() as host:
            address = str(host.client_address)
        with pytest.raises(ConnectionLostError, match=f"cannot connect to {address}: .*is the controller running"):
            await AsyncClient(address).connect()

    run(test())
    with pytest.raises(InvalidRequestError, match="port"):
        Client("127.0.0.1:http")


def test_the_synchronous_client_has_the_same_methods() -> None:
    async def test() -> None:
        async with serving() as (host, _):

            def calls() -> None:
                with Client(str(host.client_address)) as client:
                    assert [model.name for model in client.ls()] == ["m"]
                    model = client.model("m")
                    np.testing.assert_array_equal(model.infer({"x": ROW}, slo_factor=1e6)["y"], 2 * ROW)
                    assert model.evict() == 1
                    assert client.status().stage == "serving"
                    with pytest.raises(UnknownModelError):
                        client.infer("n", {"x": ROW})
                client.close()  # a second close has no effect

            await asyncio.to_thread(calls)

    run(test())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.ERROR, ServerError),
        (Status.TIMEOUT, RequestTimeoutError),
        (Status.INITIALIZING, InitializingError),
        (Status.INVALID_REQUEST, InvalidRequestError),
        (Status.SKIPPED_BY_CONTROLLER, RequestRefusedError),
        (Status.CONTROLLER_COULD_NOT_START_IN_TIME, RequestRefusedError),
        (Status.UNKNOWN_MODEL, UnknownModelError),
        (Status.INVALID_MODEL_PATH, InvalidModelError),
        (12345, ServerError),
    ],
)
def test_each_status_has_its_exception(status: int, kind: type[ClockworkError]) -> None:
    error = error_for_status(status, "why", predicted=seconds(1), retry_after=seconds(2))
    assert type(error) is kind
    assert error.status == status
    if isinstance(error, RequestRefusedError):
        assert (error.predicted, error.retry_after) == (1.0, 2.0)


def test_calls_wait_while_the_connection_is_full() -> None:
    async def test() -> None:
        wide = np.zeros((1, 1 << 20), np.float32)  # 4 MiB
        async with (
            serving(EchoScheduler(), models=("wide.onnx",)) as (host, _),
            AsyncClient(str(host.client_address)) as client,
        ):
            calls = [asyncio.create_task(client.infer("wide", {"x": wide})) for _ in range(80)]  # 320 MiB
            await asyncio.sleep(0)
            calls[-1].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(results.pop(), asyncio.CancelledError)
            assert all(isinstance(result, InferenceResult) for result in results)
            assert (await client.status()).outstanding == 0

    run(test())


def test_waiting_calls_fail_when_the_connection_ends() -> None:
    async def test() -> None:
        wide = np.zeros((1, 1 << 20), np.float32)
        async with (
            serving(holds=real_infer, models=("wide.onnx",)) as (host, _),
            AsyncClient(str(host.client_address)) as client,
        ):
            calls = [asyncio.create_task(client.infer("wide", {"x": wide})) for _ in range(20)]
            await asyncio.sleep(0)
            await client.close()
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, ConnectionLostError)

    run(test())


class RefusesTwice(EchoScheduler):
    """Refuses the first two requests, with a retry time."""

    def __init__(self) -> None:
        self.arrivals: list[int] = []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.arrivals.append(now)
        if len(self.arrivals) <= 2:
            status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
            return [Answer(request.id, status, "later", predicted=ms(30), retry_after=ms(20))]
        return super().infer(now, request)


def test_a_refused_request_is_sent_again_at_its_retry_time() -> None:
    async def test() -> None:
        scheduler = RefusesTwice()
        async with serving(scheduler) as (host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(RequestRefusedError) as caught:
                await client.infer("m", {"x": ROW})
            assert (caught.value.predicted, caught.value.retry_after) == (0.03, 0.02)
            result = await client.infer("m", {"x": ROW}, retries=1)
            np.testing.assert_array_equal(result["x"], ROW)
            assert len(scheduler.arrivals) == 3
            assert scheduler.arrivals[2] - scheduler.arrivals[1] >= ms(20)

    run(test())


def test_the_synchronous_client_retries_too() -> None:
    async def test() -> None:
        scheduler = RefusesTwice()
        async with serving(scheduler) as (host, _):

            def ask() -> InferenceResult:
                with Client(str(host.client_address)) as client:
                    return client.model("m").infer({"x": ROW}, retries=2)

            np.testing.assert_array_equal((await asyncio.to_thread(ask))["x"], ROW)
            assert len(scheduler.arrivals) == 3

    run(test())


def test_a_call_of_a_closed_client_says_that_the_client_is_closed() -> None:
    async def test() -> None:
        async with serving() as (host, _):

            def calls() -> None:
                with Client(str(host.client_address)) as client:
                    model = client.model("m")
                for call in (client.ls, client.status, lambda: model.infer({"x": ROW}), lambda: client.evict("m")):
                    with pytest.raises(ConnectionLostError, match="the client is closed"):
                        call()
                client.close()

            await asyncio.to_thread(calls)
            async with AsyncClient(str(host.client_address)) as client:
                await client.ls()
            with pytest.raises(ConnectionLostError, match="the client is closed"):
                await client.ls()
            await client.connect()
            assert [model.name for model in await client.ls()] == ["m"]
            await client.close()

    run(test())


class RefusesForAnHour(EchoScheduler):
    """Refuses each request, with a retry time of an hour."""

    def __init__(self) -> None:
        self.refused = asyncio.Event()

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.refused.set()
        status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
        return [Answer(request.id, status, "later", predicted=ms(30), retry_after=seconds(3600))]


@pytest.mark.timeout(60)
def test_closing_a_client_ends_the_calls_of_other_threads() -> None:
    async def test() -> None:
        async with serving(holds=real_infer) as (host, worker):
            client = await asyncio.to_thread(Client, str(host.client_address))
            call = asyncio.ensure_future(asyncio.to_thread(client.infer, "m", {"x": ROW}, slo=600))
            await worker.until(lambda: bool(worker.held))
            await asyncio.to_thread(client.close)
            with pytest.raises(ConnectionLostError):
                await call

        scheduler = RefusesForAnHour()
        async with serving(scheduler) as (host, _):
            client = await asyncio.to_thread(Client, str(host.client_address))
            call = asyncio.ensure_future(asyncio.to_thread(client.infer, "m", {"x": ROW}, retries=1))
            await scheduler.refused.wait()
            await asyncio.to_thread(client.close)
            with pytest.raises(ConnectionLostError):
                await call

    run(test())
