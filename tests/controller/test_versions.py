"""Clients see names and versions of models, whatever loads there are behind them."""

from builders import infer_request
from clockwork.controller.description import Description
from clockwork.frontend.index import index_of
from clockwork.messages.requests import (
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    PromoteRequest,
    ServerStatus,
    StatusRequest,
    StatusResponse,
    UnloadModelRequest,
)
from clockwork.messages.status import Status
from clockwork.metrics import models
from clockwork.units import ms, seconds
from cluster import Cluster
from controller.test_changes import a_cluster, infer, load


def described(cluster: Cluster) -> Description:
    return cluster.controller.description(cluster.now)


def status(cluster: Cluster, number: int) -> ServerStatus:
    cluster.ask(StatusRequest(number))
    answer = cluster.answer(number)
    assert isinstance(answer, StatusResponse)
    return answer.server


def listed(cluster: Cluster, number: int) -> list[tuple[str, str, bool, tuple[str, ...]]]:
    cluster.ask(ListModelsRequest(number))
    answer = cluster.answer(number)
    assert isinstance(answer, ListModelsResponse)
    return [(model.name, model.version, model.default, model.labels) for model in answer.models]


def series(cluster: Cluster) -> list[tuple[str, str]]:
    """Return the labels of the metrics of models."""
    description = described(cluster)
    rows = [
        models.row(model.served_as, description.counts_of(model), True, model.version)
        for model, _ in description.served()
    ]
    return [(row.model, row.version) for row in rows]


def index(cluster: Cluster) -> list[tuple[str, str, str]]:
    return [(entry.name, entry.version, entry.state) for entry in index_of(described(cluster), serving=True)]


def two_versions() -> Cluster:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "a", "2", keep=True)
    cluster.run_until(cluster.now + seconds(2))
    return cluster


def test_a_response_has_the_number_of_the_version_that_executed_it() -> None:
    cluster = two_versions()
    cluster.ask(PromoteRequest(2, "a", "1", "stable"))
    for number, version, executed in ((10, "", "2"), (11, "1", "1"), (12, "2", "2"), (13, "stable", "1")):
        infer(cluster, number, version=version)
        answer = cluster.answer(number)
        assert isinstance(answer, InferResponse)
        assert (answer.status, answer.version) == (Status.SUCCESS, executed)


def test_a_request_admitted_before_a_swap_names_the_old_version() -> None:
    cluster = two_versions()
    load(cluster, 2, "a", "1")
    cluster.run_until(cluster.now + seconds(1))
    cluster.ask(infer_request(3, slo=seconds(1)))
    load(cluster, 4, "a", "2")
    cluster.run_until(cluster.now + seconds(2))
    answer = cluster.answer(3)
    assert isinstance(answer, InferResponse)
    assert answer.version == "1"
    assert listed(cluster, 5) == [("a", "2", True, ())]


def test_ls_and_status_show_names_and_versions_but_no_keys() -> None:
    cluster = two_versions()
    cluster.ask(PromoteRequest(2, "a", "1", "stable"))
    assert listed(cluster, 3) == [("a", "1", False, ("stable",)), ("a", "2", True, ())]
    server = status(cluster, 4)
    assert [(model.info.name, model.info.version, model.default) for model in server.models] == [
        ("a", "1", False),
        ("a", "2", True),
    ]
    assert all(model.ready for model in server.models)
    infer(cluster, 5, version="2")
    assert set(status(cluster, 6).workers[0].gpus[0].gpu.models) == {"a"}


def test_versions_that_are_not_ready_are_in_status_and_index_with_the_reason() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "broken", "1", wait=False)
    assert ("broken", "1", "LOADING") in index(cluster)
    cluster.run_until(cluster.now + seconds(2))
    (broken,) = status(cluster, 2).versions
    assert (broken.name, broken.version, broken.state) == ("broken", "1", "UNAVAILABLE")
    assert broken.reason
    load(cluster, 3, "a", "2")
    cluster.run_until(cluster.now + seconds(2))
    assert index(cluster) == [("a", "1", "UNAVAILABLE"), ("a", "2", "READY"), ("broken", "1", "UNAVAILABLE")]
    assert [version.reason for version in status(cluster, 4).versions if version.name == "a"] == [
        "replaced by version 2"
    ]


def test_metrics_have_one_series_for_a_version_and_none_after_its_unload() -> None:
    cluster = two_versions()
    assert series(cluster) == [("a", "1"), ("a", "2")]
    cluster.ask(infer_request(3, slo=seconds(1)))
    load(cluster, 4, "a", "1")
    while cluster.answer(4) is None:
        cluster.run_until(cluster.now + ms(1))
        assert len(series(cluster)) == len(set(series(cluster)))
    assert series(cluster) == [("a", "1")]
    cluster.ask(UnloadModelRequest(5, "a"))
    assert series(cluster) == []


def test_a_version_or_a_label_is_ready_while_a_worker_can_serve_it() -> None:
    cluster = two_versions()
    cluster.ask(PromoteRequest(2, "a", "1", "stable"))
    ready = cluster.controller.is_ready
    assert [ready("a", version) for version in ("", "1", "2", "stable", "3", "other")] == [True] * 4 + [False] * 2
    cluster.ask(UnloadModelRequest(3, "a", "1"))
    assert [ready("a", version) for version in ("", "1", "2", "stable")] == [True, False, True, False]


def test_errors_name_the_served_name_and_the_state_of_its_versions() -> None:
    cluster = two_versions()
    cluster.ask(infer_request(2, "a", rows=100))
    answer = cluster.answer(2)
    assert isinstance(answer, InferResponse)
    assert answer.message.startswith("request has 100 rows; model a takes")
    cluster.ask(UnloadModelRequest(3, "a"))
    cluster.run_until(cluster.now + seconds(1))
    cluster.ask(infer_request(4, "a"))
    answer = cluster.answer(4)
    assert isinstance(answer, InferResponse)
    assert answer.message == (
        "model 'a' has no ready version: 1 is UNAVAILABLE (unloaded), 2 is UNAVAILABLE (unloaded)"
    )
