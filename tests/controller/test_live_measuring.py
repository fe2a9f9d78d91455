"""Measurements while the server serves take little of a device's time."""

from itertools import pairwise

import pytest
from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.config import ControlMode, LoadSpec, ProfilingConfig
from clockwork.messages.actions import Infer
from clockwork.messages.commands import SendAction
from clockwork.messages.requests import (
    InferResponse,
    LoadModelRequest,
    LoadModelResponse,
    ModelVersion,
    UnloadModelRequest,
)
from clockwork.messages.results import TrialRun
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from clockwork.state import ModelState
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File

PROFILING = ProfilingConfig(max_batch_size=2, max_samples=10)

FILES = {"a": File(), "small": File(infer=ms(6)), "large": File(infer=ms(80))}


def loading(path: str, request_every: Nanos, until: Nanos) -> tuple[Cluster, list[InferResponse]]:
    """Load a model while requests for "a" arrive; return the cluster and the responses."""
    config = quick_config(models=(LoadSpec("a"),), control=ControlMode.EXPLICIT, profiling=PROFILING)
    cluster = Cluster(make_scheduler("clockwork"), config)
    cluster.connect(FakeWorker("w", FILES))
    cluster.run_until(seconds(2))
    cluster.ask(infer_request(10))
    cluster.ask(LoadModelRequest(1, path, "b", versions=(ModelVersion("1", path),)))
    number, end = 11, cluster.now + until
    while cluster.now < end:
        cluster.run_until(cluster.now + request_every)
        cluster.ask(infer_request(number, slo=ms(30)))
        number += 1
    cluster.run_until(cluster.now + seconds(1))
    answers = [cluster.answer(i) for i in range(10, number)]
    return cluster, [answer for answer in answers if isinstance(answer, InferResponse)]


def executions(cluster: Cluster) -> list[Nanos]:
    """Return when the measurements of the loaded model were sent."""
    return [
        at
        for at, command in cluster.said
        if isinstance(command, SendAction) and isinstance(command.action, Infer) and command.action.model == "b"
    ]


@pytest.mark.parametrize(("path", "duration"), [("small", ms(6)), ("large", ms(80))])
def test_measurements_take_5_percent_of_a_device_that_is_idle_between_requests(path: str, duration: Nanos) -> None:
    cluster, _ = loading(path, ms(20), seconds(3))
    times = executions(cluster)
    assert len(times) > 1
    for first, second in pairwise(times):
        assert second - first >= 20 * duration - ms(2)


def test_a_large_model_is_ready_after_one_execution_while_clients_send_requests() -> None:
    cluster, responses = loading("large", ms(20), ms(500))
    answer = cluster.answer(1)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == Status.SUCCESS
    assert len(executions(cluster)) == 1
    refused = [response for response in responses if response.status != Status.SUCCESS]
    assert len(refused) <= ms(80) // ms(20) + 1
    assert not any(response.admitted for response in refused)


def test_a_profile_with_few_samples_is_not_stored() -> None:
    cluster, _ = loading("large", ms(20), seconds(12))
    assert len(executions(cluster)) < 10
    assert [command.key.digest for command in cluster.saved()] == ["sha-a"]
    assert cluster.state.models["b"].profiles["gpu"].infer[1].p99 == ms(80)


def test_measurements_follow_each_other_after_the_last_request() -> None:
    cluster, _ = loading("large", ms(20), ms(100))
    cluster.run_until(cluster.now + seconds(8))
    times = executions(cluster)
    gaps = [second - first for first, second in pairwise(times)]
    assert min(gaps) < ms(100)


def test_a_second_load_of_a_content_continues_its_measurement() -> None:
    cluster, _ = loading("large", ms(20), ms(500))
    assert len(executions(cluster)) == 1
    cluster.ask(infer_request(1000))
    cluster.ask(UnloadModelRequest(2, "b"))
    cluster.run_until(cluster.now + ms(30))
    cluster.ask(LoadModelRequest(3, "large", "b", versions=(ModelVersion("1", "large"),)))
    cluster.run_until(cluster.now + ms(10))
    answer = cluster.answer(3)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == Status.SUCCESS
    assert len(executions(cluster)) == 1
    assert cluster.state.models["b"].profiles["gpu"].infer[1].p99 == ms(120)


def test_an_execution_at_the_load_bounds_the_first_measurement_even_above_the_usual_bound() -> None:
    config = quick_config(models=(LoadSpec("a"),), control=ControlMode.EXPLICIT, profiling=PROFILING)
    cluster = Cluster(make_scheduler("clockwork"), config)
    cluster.connect(FakeWorker("w", FILES))
    cluster.run_until(seconds(2))
    info = cluster.state.models["a"].info
    slow = ModelState(replace(info, name="t", digest="t", trial=TrialRun(seconds(5), 2)))
    measuring = cluster.controller._serving.own.measuring
    measuring.add(slow, ["gpu"])
    assert slow.profiles["gpu"].infer[1].p99 == seconds(15)
    request = measuring.begin(cluster.now, 1, idle=True)
    assert request is not None
    assert request.deadline >= cluster.now + seconds(15)


def test_the_first_measurement_is_bounded_by_the_trial_on_a_worker_with_devices_of_the_same_kind() -> None:
    config = quick_config(models=(LoadSpec("a"),), control=ControlMode.EXPLICIT, profiling=PROFILING, workers=2)
    cluster = Cluster(make_scheduler("clockwork"), config)
    for worker in (FakeWorker("w1", FILES, kind="fast"), FakeWorker("w2", FILES, kind="slow")):
        cluster.connect(worker)
    cluster.run_until(seconds(2))
    info = replace(cluster.state.models["a"].info, name="t", digest="t")
    for worker_id, duration in (("w1", ms(5)), ("w2", ms(50))):
        cluster.state.workers[worker_id].gpus[0].models["t"] = replace(info, trial=TrialRun(duration, 2))
    model = ModelState(replace(info, trial=TrialRun(ms(5), 2)))
    cluster.controller._serving.own.measuring.add(model, ["fast", "slow"])
    assert {kind: profile.infer[1].p99 for kind, profile in model.profiles.items()} == {"fast": ms(15), "slow": ms(150)}
