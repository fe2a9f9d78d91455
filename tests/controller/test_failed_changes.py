"""Failed and repeated loads: their reasons, their log lines, and the counters of the version."""

import pytest

from clockwork.controller import live_measuring
from clockwork.controller.events import Report
from clockwork.messages.requests import LoadModelRequest, ModelVersion
from clockwork.messages.status import Status
from clockwork.units import seconds
from controller.test_changes import FILES, a_cluster, infer, load, status
from effort import COMPILED
from fake_worker import File
from served import status_of


def test_a_failed_load_is_reported_once() -> None:
    cluster = a_cluster(None, "a/1")
    load(cluster, 1, "a", "9")
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster, 1) == Status.INVALID_REQUEST
    errors = [command for _, command in cluster.said if isinstance(command, Report) and command.level == "ERROR"]
    (report,) = errors
    assert report.text.startswith("cannot load a: worker w0: ")


def test_a_failed_load_of_an_unknown_version_is_shown_with_the_version_that_serves() -> None:
    cluster = a_cluster(None, "a/1")
    cluster.ask(LoadModelRequest(1, "a/9", "a", versions=(ModelVersion("", "a/9"),)))
    cluster.run_until(cluster.now + seconds(1))
    assert status(cluster, 1) == Status.INVALID_REQUEST
    (shown,) = status_of(cluster, 2).versions
    assert (shown.name, shown.version, shown.state) == ("a", "1", "READY")
    assert shown.reason.startswith("the last load failed: worker w0: ")
    load(cluster, 3, "a", "2")
    cluster.run_until(cluster.now + seconds(2))
    assert status(cluster, 3) == Status.SUCCESS
    assert [each.reason for each in status_of(cluster, 4).versions] == ["replaced by version 2"]


def test_counters_of_a_version_do_not_decrease_when_a_load_replaces_it() -> None:
    cluster = a_cluster(None, "a/1")
    counts = []
    for number in range(3):
        for request in range(3):
            infer(cluster, 10 * number + request)
        (model,) = status_of(cluster, 10 * number + 5).models
        counts.append((model.counts.answers["SUCCESS"], model.counts.batches, sum(model.counts.latencies)))
        cluster.workers["w0"].disk = {**FILES, "a/1": File(version="1", digest=f"changed-{number}")}
        load(cluster, 10 * number + 6, "a", "1")
        cluster.run_until(cluster.now + seconds(2))
        assert status(cluster, 10 * number + 6) == Status.SUCCESS
    assert [answers for answers, _, _ in counts] == [3, 6, 9]
    assert counts == sorted(counts)
    tally = cluster.controller.description(cluster.now).tally
    assert len(tally._counts) == 1, "nothing is left of the replaced loads"
    assert not tally._successors


@pytest.mark.skipif(COMPILED, reason="compiled modules contain the value of the constant")
def test_the_profiles_of_contents_that_are_not_loaded_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_measuring, "MAX_UNUSED", 1)
    cluster = a_cluster(None, "a/1")
    for number, version in enumerate(("2", "3", "1", "2")):
        load(cluster, number, "a", version)
        cluster.run_until(cluster.now + seconds(3))
        assert status(cluster, number) == Status.SUCCESS
    saved = [command.key.digest for command in cluster.saved()]
    assert saved == ["sha-a/1", "sha-a/2", "sha-a/3", "sha-a/1", "sha-a/2"]
