"""A worker that lacks a model's file is not used for that model, and the others serve it."""

import pytest

from builders import infer_request
from clockwork.controller.config import ControlMode, LoadSpec
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Infer, LoadModelFromDisk
from clockwork.messages.requests import LoadModelRequest, LoadModelResponse, ModelVersion
from clockwork.messages.status import Status
from clockwork.scheduling.registry import BUILT_IN, make_scheduler
from clockwork.units import ms, seconds
from cluster import Cluster, quick_config
from controller.test_changes import FILES, load, status
from fake_worker import FakeWorker

LACKING = {path: file for path, file in FILES.items() if path != "b/1"}


def a_cluster(scheduler: str = "clockwork", *models: str, strict: bool = False) -> Cluster:
    named = tuple(LoadSpec(path) for path in models)
    config = quick_config(workers=2, models=named, control=ControlMode.EXPLICIT, strict=strict)
    cluster = Cluster(make_scheduler(scheduler), config)
    cluster.connect(FakeWorker("has", FILES))
    cluster.connect(FakeWorker("lacks", LACKING))
    cluster.run_until(seconds(3))
    return cluster


@pytest.mark.parametrize("scheduler", sorted(set(BUILT_IN) - {"echo"}))
def test_a_load_while_serving_succeeds_without_the_worker_that_lacks_the_file(scheduler: str) -> None:
    cluster = a_cluster(scheduler, "a/1")
    load(cluster, 1, "b", "1")
    cluster.run_until(cluster.now + seconds(3))
    assert status(cluster, 1) == Status.SUCCESS
    (warning,) = [text for text in cluster.reports("WARNING") if "not on all workers" in text]
    assert "worker lacks: " in warning
    for number in range(10, 20):
        cluster.ask(infer_request(number, "b"))
        cluster.run_until(cluster.now + ms(100))
        assert status(cluster, number) == Status.SUCCESS
    assert {sent.worker_id for sent in cluster.actions(Infer) if sent.action.model == "b"} == {"has"}
    server = cluster.controller.description(cluster.now).server()
    assert [list(worker.lacks) for worker in sorted(server.workers, key=lambda worker: worker.id)] == [[], ["b"]]
    loads = len(cluster.actions(LoadModelFromDisk, "lacks"))
    load(cluster, 2, "c", "1")
    cluster.run_until(cluster.now + seconds(3))
    assert status(cluster, 2) == Status.SUCCESS
    assert len(cluster.actions(LoadModelFromDisk, "lacks")) == loads + 1  # b is not tried again


def test_a_worker_that_connects_again_tries_again() -> None:
    cluster = a_cluster("clockwork", "a/1", "b/1")
    assert cluster.stage is Stage.SERVING
    worker = cluster.lose("lacks")
    worker.disk = FILES
    cluster.connect(worker)
    cluster.run_until(cluster.now + seconds(3))
    assert "b" in worker.models
    cluster.check_rest()


def test_a_load_fails_if_no_worker_has_the_file_or_a_worker_fails_otherwise() -> None:
    cluster = a_cluster("clockwork", "a/1")
    version = ModelVersion("9", "a/9")
    cluster.ask(LoadModelRequest(1, "a", "a", versions=(version,)))
    cluster.run_until(cluster.now + seconds(2))
    assert status(cluster, 1) == Status.INVALID_REQUEST
    cluster.workers["lacks"].fail["LoadModelFromDisk"] = (Status.INVALID_MODEL, "it is broken")
    load(cluster, 2, "b", "1")
    cluster.run_until(cluster.now + seconds(2))
    answer = cluster.answer(2)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == Status.INVALID_REQUEST
    assert "worker lacks: it is broken" in answer.message


def test_strict_start_up_needs_the_file_on_all_workers() -> None:
    cluster = a_cluster("clockwork", "a/1", "b/1", strict=True)
    assert "cannot serve b" in cluster.gave_up()[0]
