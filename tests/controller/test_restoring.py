"""A controller starts with the versions that its host names, and takes over a fleet that an earlier controller left."""

import pytest

from clockwork.controller.config import ControllerConfig, ControlMode, LoadSpec
from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.stage import Stage
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import LoadModelFromDisk
from clockwork.messages.requests import InferResponse
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import seconds
from cluster import Cluster, quick_config
from controller.test_changes import FILES, infer
from fake_worker import FakeWorker


def restarted(config: ControllerConfig, *workers: FakeWorker) -> Cluster:
    cluster = Cluster(make_scheduler("clockwork"), config)
    for worker in workers:
        cluster.connect(worker)
    cluster.run_until(seconds(3))
    return cluster


def holding(name: str, *loads: tuple[str, str]) -> FakeWorker:
    """A worker that holds models: (path, name on the worker)."""
    worker = FakeWorker(name, FILES)
    worker.models = {key: FILES[path].info(path, key, key, 1) for path, key in loads}
    return worker


def test_several_versions_of_a_model_are_served_from_the_start() -> None:
    models = (LoadSpec("a/1", "a", version="1"), LoadSpec("a/2", "a", version="2"))
    config = quick_config(models=models, promoted={"a": "1"}, labels={"a": {"canary": "2"}})
    cluster = restarted(config, FakeWorker("w0", FILES))
    assert cluster.stage is Stage.SERVING
    assert infer(cluster, 1) == "a/1"
    assert infer(cluster, 2, version="2") == "a/2"
    assert infer(cluster, 3, version="canary") == "a/2"
    assert infer(cluster, 4, version="3") == "UNKNOWN_MODEL"


def test_a_version_that_is_named_twice_is_an_error() -> None:
    config = quick_config(models=(LoadSpec("a/1", "a", version="1"), LoadSpec("b/1", "a", version="1")))
    with pytest.raises(InvalidRequestError, match="version 1 of model a is given twice; remove one"):
        ControllerWithStartupPhase(make_scheduler("clockwork"), config)


def test_a_model_that_the_host_cannot_load_is_reported_and_the_others_are_served() -> None:
    config = quick_config(models=(LoadSpec("a/1"),), unusable={"z": "its file is empty"})
    cluster = restarted(config, FakeWorker("w0", FILES))
    assert cluster.stage is Stage.SERVING
    assert infer(cluster, 1) == "a/1"
    infer(cluster, 2, "z")
    answer = cluster.answer(2)
    assert isinstance(answer, InferResponse)
    assert "its file is empty" in answer.message
    assert "1 of 2 models are served; not served: z" in cluster.reports("WARNING")


@pytest.mark.parametrize("strict", [False, True])
def test_a_server_of_which_no_model_can_be_loaded_ends(strict: bool) -> None:
    config = quick_config(unusable={"z": "its file is empty"}, strict=strict)
    cluster = restarted(config, FakeWorker("w0", FILES))
    assert cluster.gave_up() == ["cannot serve z: its file is empty"]


def test_models_of_an_earlier_controller_are_kept_replaced_or_unloaded() -> None:
    worker = holding("w0", ("a/1", "a"), ("a/2", "a/2"), ("b/1", "b"), ("c/1", "c"))
    models = (LoadSpec("a/2", "a", version="2", key="a/2"), LoadSpec("a/3", "b", version="3"))
    cluster = restarted(quick_config(models=models, only_named=True, control=ControlMode.EXPLICIT), worker)
    assert cluster.stage is Stage.SERVING
    assert infer(cluster, 1, "a") == "a/2"
    assert infer(cluster, 2, "b") == "a/3"
    assert infer(cluster, 3, "c") == "UNKNOWN_MODEL"
    assert sorted(worker.models) == ["a/2", "b"]
    cluster.check_rest()


def test_a_restarted_controller_serves_with_the_workers_that_come_in_time() -> None:
    config = quick_config(workers=2, models=(LoadSpec("a/1"),), worker_wait=seconds(5))
    cluster = Cluster(make_scheduler("clockwork"), config)
    cluster.run_until(seconds(20))
    cluster.connect(holding("w0", ("a/1", "a")))
    cluster.run_until(seconds(24))
    assert cluster.stage is Stage.QUERYING
    cluster.run_until(seconds(27))
    assert cluster.stage is Stage.SERVING
    assert infer(cluster, 1) == "a/1"


def test_without_a_limit_a_controller_waits_for_all_workers() -> None:
    cluster = Cluster(make_scheduler("clockwork"), quick_config(workers=2, models=(LoadSpec("a/1"),)))
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(seconds(1000))
    assert cluster.stage is Stage.QUERYING
    cluster.connect(FakeWorker("w1", FILES))
    cluster.run_until(seconds(1003))
    assert cluster.stage is Stage.SERVING
    assert len(cluster.actions(LoadModelFromDisk)) == 2
