"""The controller asks its host to store the models that it serves, and a restart merges them with its arguments."""

from typing import Any

import pytest

from clockwork.controller.config import ControlMode, DesiredModels, LoadSpec
from clockwork.controller.desired import check_desired, merge, merge_labels
from clockwork.controller.events import Drain, SaveModels
from clockwork.controller.stage import Stage
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import PromoteRequest, UnloadModelRequest
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import ms, seconds
from cluster import Cluster, quick_config
from controller.test_changes import FILES, infer, load
from fake_worker import FakeWorker


def saving(*models: LoadSpec, workers: int = 1, **settings: Any) -> Cluster:
    """A cluster that serves ``models``, allows changes, and stores what it serves."""
    config = quick_config(models=models, control=ControlMode.EXPLICIT, saves_models=True, workers=workers, **settings)
    cluster = Cluster(make_scheduler("clockwork"), config)
    for i in range(workers):
        cluster.connect(FakeWorker(f"w{i}", FILES))
    cluster.run_until(seconds(2))
    assert cluster.stage is Stage.SERVING
    return cluster


def stored(cluster: Cluster) -> list[DesiredModels]:
    return [command.desired for _, command in cluster.said if isinstance(command, SaveModels)]


def test_each_change_of_the_served_models_is_stored_once() -> None:
    cluster = saving(LoadSpec("a/1"), LoadSpec("b/1", no_of_copies=2), model_slos={"a": ms(50)})
    a1, copies = LoadSpec("a/1", "a", version="1", key="a"), LoadSpec("b/1", "b", 2, "", "b")
    first = DesiredModels((a1, copies), slos={"a": ms(50)}, workers=1)
    assert stored(cluster) == [first]

    load(cluster, 1, "a", "2", keep=True)
    cluster.run_until(seconds(10))
    a2 = LoadSpec("a/2", "a", version="2", key="a/2")
    assert [each.models for each in stored(cluster)[1:]] == [(a1, a2, copies)]

    cluster.ask(PromoteRequest(2, "a", "1"))
    cluster.ask(PromoteRequest(3, "a", "2", "canary"))
    assert [(each.promoted, each.labels) for each in stored(cluster)[2:]] == [
        ({"a": "1"}, {}),
        ({"a": "1"}, {"a": {"canary": "2"}}),
    ]

    assert infer(cluster, 4) == "a/1"
    cluster.run_until(seconds(30))
    assert len(stored(cluster)) == 4

    cluster.ask(UnloadModelRequest(5, "b-1"))
    cluster.run_until(seconds(31))
    assert stored(cluster)[4].models == (a1, a2, LoadSpec("b/1", "b-2", 1, "1", "b-2"))
    cluster.connect(FakeWorker("w9", FILES))
    assert cluster.lose("w9").id == "w9"
    cluster.run_until(seconds(60))
    assert len(stored(cluster)) == 5


def test_a_stored_set_is_what_a_restart_takes() -> None:
    cluster = saving(LoadSpec("a/1"), workers=2)
    load(cluster, 1, "a", "2", keep=True)
    cluster.run_until(seconds(10))
    cluster.ask(PromoteRequest(2, "a", "1"))
    desired = stored(cluster)[-1]
    check_desired(desired, 10)
    assert desired.workers == 2
    again = saving(*desired.models, promoted=desired.promoted, only_named=True)
    assert stored(again)[0].models == desired.models
    assert infer(again, 1) == "a/1"
    assert infer(again, 2, version="2") == "a/2"


def test_nothing_is_stored_before_serving_while_draining_or_without_the_setting() -> None:
    cluster = saving(LoadSpec("a/1"))
    before = len(stored(cluster))
    cluster.feed(Drain(seconds(1)))
    cluster.lose("w0")
    cluster.run_until(seconds(20))
    assert len(stored(cluster)) == before == 1
    assert cluster.stages()[-2][1] == "serving"
    silent = Cluster(make_scheduler("clockwork"), quick_config(models=(LoadSpec("a/1"),)))
    silent.connect(FakeWorker("w0", FILES))
    silent.run_until(seconds(3))
    assert not stored(silent)


def test_a_named_model_that_cannot_be_loaded_stays_in_the_set_until_a_client_loads_another() -> None:
    cluster = saving(LoadSpec("a/1"), LoadSpec("missing/1", "b", version="1"))
    missing = LoadSpec("missing/1", "b", 1, "1", "b")
    assert missing in stored(cluster)[-1].models
    load(cluster, 1, "b", "1")
    cluster.run_until(seconds(10))
    assert [spec.path for spec in stored(cluster)[-1].models] == ["a/1", "b/1"]
    cluster.ask(UnloadModelRequest(2, "b"))
    cluster.run_until(seconds(20))
    assert [spec.path for spec in stored(cluster)[-1].models] == ["a/1"]


A = LoadSpec("a.onnx", "a")
A_AGAIN = LoadSpec("new/a.onnx", "a")
TWO = LoadSpec("b.onnx", "b", 2)
SAVED = (LoadSpec("a/2", "a", version="2", key="a/2"), LoadSpec("b.onnx", "b-1", key="b-1"))


@pytest.mark.parametrize(
    ("given", "before", "loaded"),
    [
        ((), (A, TWO), SAVED),
        ((A, TWO), (A, TWO), SAVED),
        ((A_AGAIN, TWO), (A, TWO), (SAVED[1], A_AGAIN)),
        ((A, LoadSpec("b.onnx", "b", 3)), (A, TWO), (SAVED[0], LoadSpec("b.onnx", "b", 3))),
        ((A, LoadSpec("c.onnx", "c")), (A,), (*SAVED, LoadSpec("c.onnx", "c"))),
        ((LoadSpec("c.onnx", "c"),), (LoadSpec("c.onnx", "c"),), SAVED),  # a client has unloaded c
    ],
)
def test_models_are_restored_unless_their_arguments_have_changed(
    given: tuple[LoadSpec, ...], before: tuple[LoadSpec, ...], loaded: tuple[LoadSpec, ...]
) -> None:
    assert merge(SAVED, given, before) == loaded


def test_labels_are_restored_unless_their_arguments_have_changed() -> None:
    saved = {"a": {"stable": "2", "canary": "3"}, "b": {"old": "1"}}
    before = {"a": {"stable": "1", "canary": "1"}}
    merged = merge_labels(saved, {"a": {"stable": "1", "canary": "4"}, "c": {"x": "1"}}, before)
    assert merged == {"a": {"stable": "2", "canary": "4"}, "b": {"old": "1"}, "c": {"x": "1"}}


@pytest.mark.parametrize(
    "wrong",
    [
        DesiredModels((LoadSpec("a", "../a", key="../a"),)),
        DesiredModels((LoadSpec("", "a", key="a"),)),
        DesiredModels((LoadSpec("a", "a", 100, key="a"),)),
        DesiredModels((LoadSpec("a", "a", key="b"),)),
        DesiredModels((LoadSpec("a", "a", 2, key="a/2"),)),
        DesiredModels((LoadSpec("a", "a", key="a"), LoadSpec("b", "a", key="a/2"))),
        DesiredModels(labels={"a": {"1": "2"}}),
        DesiredModels(slos={"a": 0}),
        DesiredModels(workers=-1),
    ],
)
def test_a_set_that_no_controller_stores_is_an_error(wrong: DesiredModels) -> None:
    with pytest.raises(InvalidRequestError):
        check_desired(wrong, 10)
