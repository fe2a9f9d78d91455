"""Requests over three protocols to a live controller are counted once, and exposed by every front end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, controller, run
from clockwork.client import AsyncClient
from clockwork.errors import ClockworkError
from clockwork.grpc_frontend import serve_grpc
from clockwork.http.config import HttpConfig
from clockwork.http.server import serving_http
from clockwork.messages.actions import Infer
from clockwork.messages.commands import Answer
from clockwork.messages.requests import ServerStatus
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.state import PendingRequest
from clockwork.units import SECOND, Nanos
from http_raw import Peer, connected, eventually, row, served

INFER = "/v2/models/m/infer"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Picky(SimpleScheduler):
    """Refuses requests with less than a second left."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        if request.deadline - now < SECOND:
            return [Answer(request.id, Status.CONTROLLER_COULD_NOT_START_IN_TIME, "too tight")]
        return super().infer(now, request)


def test_a_scrape_gets_open_metrics_if_it_requests_them() -> None:
    async def test() -> None:
        async with served() as (peer, *_):
            await peer.ask("POST", INFER, row())
            answer = await peer.ask("GET", "/metrics", accept="application/openmetrics-text")
            assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
            assert answer.body.endswith(b"\n# EOF\n")
            text = answer.body.decode()
            families = {family.name for family in open_metrics_families(text)}  # type: ignore[no-untyped-call]
            assert {"clockwork_refusals", "nv_inference_count", "clockwork_info"} <= families

    run(test())


async def scraped(peer: Peer) -> Samples:
    answer = await peer.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.body.decode()))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    wanted = labels.items()
    names = (name, f"{name}_total")  # the parser appends this suffix to Triton's counters
    found = [value for (sample, has), value in samples.items() if sample in names and wanted <= dict(has).items()]
    assert found, (name, labels)
    return sum(found)


class Protocols:
    """One server, and a function for each protocol that sends a request."""

    def __init__(self, peer: Peer, rpc: Any, native: AsyncClient) -> None:
        self.peer, self.rpc, self.native = peer, rpc, native

    async def http(self, model: str = "m", shape: Any = (1, 4), slo_ms: float = 20_000) -> None:
        data = [1.0] * int(np.prod(shape))
        tensor = {"name": "x", "datatype": "FP32", "shape": shape, "data": data}
        await self.peer.ask("POST", f"/v2/models/{model}/infer", row(inputs=[tensor], parameters={"slo_ms": slo_ms}))

    async def grpc(self, model: str = "m", shape: Any = (1, 4), slo_ms: float = 20_000) -> None:
        tensor = triton.InferInput("x", list(shape), "FP32")
        tensor.set_data_from_numpy(np.ones(shape, np.float32))
        with suppress(InferenceServerException):
            await self.rpc.infer(model, [tensor], parameters={"slo_ms": str(slo_ms)})

    async def native_protocol(self, model: str = "m", shape: Any = (1, 4), slo_ms: float = 20_000) -> None:
        with suppress(ClockworkError):
            await self.native.infer(model, {"x": np.ones(shape, np.float32)}, slo=slo_ms / 1000)

    async def status(self) -> ServerStatus:
        return await self.native.status()


@asynccontextmanager
async def protocols(**settings: Any) -> AsyncIterator[Protocols]:
    async with (
        served(Picky(), **settings) as (peer, _, host, _),
        serve_grpc(host, LOOPBACK) as server,
        triton.InferenceServerClient(str(server.address)) as rpc,
        AsyncClient(str(host.client_address)) as native,
    ):
        yield Protocols(peer, rpc, native)


def test_requests_of_every_protocol_are_counted_in_the_same_way() -> None:
    async def test() -> None:
        async with protocols() as server:
            before = await scraped(server.peer)
            for number, ask in enumerate((server.http, server.grpc, server.native_protocol), 1):
                await ask()
                await ask(shape=(2, 4))
                await ask(slo_ms=500)
                await ask(model="nobody")
                await ask(shape=(1, 5))
                found = await scraped(server.peer)
                assert total(found, "nv_inference_request_success", model="m", version="1") == 2 * number
                assert total(found, "nv_inference_count", model="m") == 3 * number
                assert total(found, "nv_inference_exec_count", model="m") == 2 * number
                refused = {"outcome": "refused", "reason": "CONTROLLER_COULD_NOT_START_IN_TIME"}
                assert total(found, "clockwork_requests_total", model="m", **refused) == number
                assert total(found, "nv_inference_request_failure", model="m", reason="REJECTED") == number
                assert total(found, "clockwork_requests_total", model="m", outcome="failed") == number
                assert total(found, "nv_inference_request_failure", model="m", reason="OTHER") == number
                assert total(found, "clockwork_requests_without_model_total", reason="UNKNOWN_MODEL") == number
                assert not any(dict(labels).get("model") == "nobody" for _, labels in found)
            falls = [key for key, value in before.items() if is_counter(key[0]) and found[key] < value]
            assert not falls
            await check_statistics(server)

    run(test())


def is_counter(name: str) -> bool:
    return name.endswith(("_total", "_bucket", "_count", "_sum")) and "pending" not in name


async def check_statistics(server: Protocols) -> None:
    (model,) = (await server.status()).models
    assert (model.in_time, model.refused, model.failed, model.late) == (6, 3, 3, 0)
    assert model.counts.answers == {
        "SUCCESS": 6,
        "CONTROLLER_COULD_NOT_START_IN_TIME": 3,
        "INVALID_REQUEST": 3,
    }
    (over_http,) = (await server.peer.ask("GET", "/v2/models/m/stats")).json()["model_stats"]
    (over_grpc,) = (await server.rpc.get_inference_statistics("m")).model_stats
    assert (over_http["inference_count"], over_http["execution_count"]) == (9, 6)
    assert (over_grpc.inference_count, over_grpc.execution_count) == (9, 6)
    for name, stat in over_http["inference_stats"].items():
        found = getattr(over_grpc.inference_stats, name)
        assert (found.count, found.ns) == (stat["count"], stat["ns"]), name
    assert over_http["inference_stats"]["fail"]["count"] == 6
    assert over_http["inference_stats"]["compute_infer"]["ns"] == 6 * 1000
    sizes = [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in over_http["batch_stats"]]
    assert (
        sizes == [(1, 3), (2, 3)] == [(batch.batch_size, batch.compute_infer.count) for batch in over_grpc.batch_stats]
    )


def test_devices_promises_and_the_stage_are_exposed() -> None:
    async def test() -> None:
        async with protocols() as server:
            await server.native_protocol()
            found = await scraped(server.peer)
            device = {"worker": "w0", "gpu": "0"}
            assert total(found, "clockwork_device_batches_total", **device) == 1
            assert total(found, "clockwork_device_executing_seconds_total", **device) == pytest.approx(1e-6)
            assert total(found, "clockwork_cache_pages", **device) == 100
            assert total(found, "clockwork_cache_pages_used", **device) == 1
            assert total(found, "clockwork_stage", stage="serving") == 1
            assert total(found, "clockwork_stage") == 1
            assert total(found, "clockwork_workers", ready="yes") == 1
            assert total(found, "clockwork_loads_total", model="m") == total(found, "clockwork_device_loads_total")
            assert total(found, "clockwork_predictions_total", action="infer", of="duration") == 1
            assert total(found, "clockwork_request_duration_seconds_count", model="m") == 1
            (worker,) = (await server.status()).workers
            assert worker.gpus[0].counts.batches == 1

    run(test())


def test_promises_and_evictions_are_exposed() -> None:
    async def test() -> None:
        async with (
            served(make_scheduler("clockwork")) as (peer, _, host, _),
            AsyncClient(str(host.client_address)) as native,
        ):
            await native.infer("m", {"x": np.ones((1, 4), np.float32)}, slo=10)
            assert await native.evict("m") == 1
            found = await scraped(peer)
            while not total(found, "clockwork_evictions_total", model="m"):
                found = await scraped(peer)
            assert total(found, "clockwork_promises_kept_total", model="m") == 1
            assert total(found, "clockwork_promises_broken_total", model="m") == 0
            assert total(found, "clockwork_device_evictions_total") == 1
            assert total(found, "clockwork_cache_pages_used") == 0

    run(test())


def test_waiting_requests_are_pending_and_disconnects_count_as_cancelled() -> None:
    async def test() -> None:
        held = False
        async with served(holds=lambda action: held and isinstance(action, Infer)) as (peer, address, _, worker):
            held = True
            async with connected(address) as other:
                other.say("POST", INFER, row())
                await worker.until(lambda: bool(worker.held))
                found = await scraped(peer)
                assert total(found, "nv_inference_pending_request_count", model="m") == 1
                assert total(found, "clockwork_pending_requests") == 1
            while total(found, "nv_inference_pending_request_count", model="m"):
                found = await scraped(peer)
            assert total(found, "nv_inference_request_failure", model="m", reason="CANCELED") == 1
            assert total(found, "clockwork_requests_total", model="m", outcome="cancelled") == 1

    run(test())


def test_metrics_are_exposed_during_start_up() -> None:
    async def test() -> None:
        async with (
            controller(initializing_timeout=1) as host,
            serving_http(host, LOOPBACK) as address,
            connected(address) as peer,
        ):
            assert (await peer.ask("POST", INFER, row())).json()["status_name"] == "INITIALIZING"
            found = await scraped(peer)
            assert total(found, "clockwork_stage", stage="querying") == total(found, "clockwork_stage") == 1
            assert total(found, "clockwork_requests_without_model_total", reason="INITIALIZING") == 1
            assert total(found, "clockwork_models") == total(found, "clockwork_serving_seconds") == 0

    run(test())


def test_when_a_worker_leaves_its_devices_disappear_and_model_counts_stay() -> None:
    async def test() -> None:
        async with served() as (peer, _, host, worker):
            await peer.ask("POST", INFER, row())
            assert worker.connection is not None
            worker.connection.close("it leaves")
            await eventually(lambda: not host.description().fleet)
            found = await scraped(peer)
            assert total(found, "clockwork_workers") == 0
            assert not [name for name, _ in found if "_device_" in name or "cache" in name]
            assert (total(found, "clockwork_devices"), total(found, "clockwork_devices_wanted")) == (0, 1)
            assert total(found, "nv_inference_request_success", model="m") == 1
            assert total(found, "clockwork_predictions_total", action="infer", of="duration") == 1

    run(test())


def test_metrics_and_histograms_can_be_switched_off() -> None:
    async def test() -> None:
        async with served(http=HttpConfig(metrics=False)) as (peer, *_):
            assert (await peer.ask("GET", "/metrics")).status == 404
        async with served(http=HttpConfig(model_histograms=False)) as (peer, *_):
            assert (await peer.ask("POST", INFER, row())).status == 200
            found = await scraped(peer)
            assert not [key for key in found if key[0].startswith("clockwork_request_duration")]
            assert (await peer.ask("POST", "/metrics")).status == 405

    run(test())


def test_simultaneous_scrapes_share_one_text_and_no_text_is_old() -> None:
    async def test() -> None:
        async with served(models=tuple(f"m{number}.onnx" for number in range(50))) as (peer, address, *_):
            async with connected(address) as second, connected(address) as third:
                answers = await asyncio.gather(*(one.ask("GET", "/metrics") for one in (peer, second, third)))
            assert answers[1].body == answers[2].body
            await peer.ask("POST", "/v2/models/m7/infer", row())
            found = await scraped(peer)
            assert total(found, "nv_inference_request_success", model="m7") == 1

    run(test())
