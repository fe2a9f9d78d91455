"""A fleet on a Ray cluster starts, survives faults, changes its size and stops, while clients send requests."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from clockwork.client import Client
from clockwork.errors import InvalidRequestError
from clockwork.ray import Fleet, PartStatus, attach, start
from clockwork.ray.fleet import StartFailedError
from ray_cluster.conftest import worker_node
from ray_cluster.fleets import PATIENCE, Load, actor, actor_pid, eventually, fleet, is_running, kill, pids_of

pytestmark = pytest.mark.timeout(300)


def ready(running: Fleet) -> bool:
    return running.status().is_ready


def part(running: Fleet, name: str) -> PartStatus:
    status = running.status()
    return next(it for it in (status.controller, *status.workers) if it.name == name)


def restarted(running: Fleet, before: PartStatus) -> bool:
    """Return whether a process other than before runs and is ready."""
    now = part(running, before.name)
    return now.state == "ready" and now.pid != before.pid


def test_a_fleet_answers_every_request_with_correct_outputs(cluster: Any, models: Path) -> None:
    with fleet(models) as running, Load(running) as load:
        status = running.status()
        assert status.is_ready
        assert {worker.node_id for worker in status.workers}.isdisjoint({status.controller.node_id})
        assert len({worker.node_id for worker in status.workers}) == 2, "the workers are spread"
        assert len(set(pids_of(status))) == 3
        load.continues(200)
        assert load.failed() == 0
        log = Path(status.controller.log)
        assert (
            log.parent
            == Path(ray.get_runtime_context().get_temp_dir()) / ray.get_runtime_context().get_session_name() / "logs"
        )
        assert "serving: 1 model" in log.read_text()
        with Client(status.addresses["clients"]) as client:
            names = [worker.id for worker in client.status().workers]
            assert sorted(names) == [f"{running.name}:worker-1", f"{running.name}:worker-2"]


def test_a_killed_worker_process_is_restarted_and_only_its_requests_fail(cluster: Any, models: Path) -> None:
    with fleet(models) as running, Load(running) as load:
        victim = running.status().workers[0]
        assert victim.pid is not None
        kill(victim.pid)
        eventually("the worker is back", lambda: restarted(running, victim))
        assert part(running, victim.name).restarts == 1
        load.continues()
        assert load.failed() <= load.clients, load.errors


@pytest.mark.parametrize("how", ["ray.kill", "SIGKILL", "SIGTERM"])
def test_a_lost_worker_actor_is_restarted_with_a_new_process(cluster: Any, models: Path, how: str) -> None:
    with fleet(models) as running, Load(running) as load:
        victim = running.status().workers[0]
        assert victim.pid is not None
        if how == "ray.kill":
            ray.kill(actor(victim.name), no_restart=False)
        else:
            os.kill(actor_pid(victim.pid), signal.Signals[how])
        pid = victim.pid
        eventually("the old process ends", lambda: not is_running(pid))
        eventually("the worker is back", lambda: restarted(running, victim))
        load.continues()
        assert load.failed() <= load.clients, load.errors


def test_a_worker_of_a_lost_node_moves_to_another_node(cluster: Any, models: Path) -> None:
    node = cluster.add_node(**worker_node())
    with fleet(models, workers=3) as running, Load(running) as load:
        victims = [it for it in running.status().workers if it.node_id == node.node_id]
        assert victims, "the workers are spread"
        cluster.remove_node(node, allow_graceful=False)
        for victim in victims:
            eventually("the worker has moved", lambda victim=victim: restarted(running, victim))  # type: ignore[misc]
            assert part(running, victim.name).node_id != node.node_id
        load.continues()
        assert load.failed() <= load.clients, load.errors


def test_a_node_that_ray_drains_loses_no_request(cluster: Any, models: Path) -> None:
    node = cluster.add_node(**worker_node())
    try:
        with fleet(models, workers=3) as running, Load(running) as load:
            victims = [it for it in running.status().workers if it.node_id == node.node_id]
            assert victims, "the workers are spread"
            drain_node(cluster, node.node_id)
            for victim in victims:
                eventually("the worker has moved", lambda victim=victim: restarted(running, victim))  # type: ignore[misc]
                assert part(running, victim.name).node_id != node.node_id
            load.continues()
            assert load.failed() == 0, load.errors
    finally:
        cluster.remove_node(node)


def drain_node(cluster: Any, node_id: str) -> None:
    """Announce the removal of a node, as Ray's autoscaler does."""
    from ray.core.generated import autoscaler_pb2

    client = ray._raylet.GcsClient(address=cluster.address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node_id, reason, "test", 2**62)
    assert accepted, why


def test_a_drained_fleet_node_has_no_workers_and_loses_no_request(cluster: Any, models: Path) -> None:
    with fleet(models) as running, Load(running) as load:
        victim = running.status().workers[0]
        moved = running.drain(victim.node_id)
        assert moved == (victim.name,)
        status = running.status()
        assert len(status.workers) == 2
        assert victim.node_id not in {worker.node_id for worker in status.workers}
        eventually("the fleet is ready", lambda: ready(running))
        load.continues()
        assert load.failed() == 0, load.errors
        with pytest.raises(InvalidRequestError, match=r"no process of .* runs on node 'nowhere'; its nodes are: "):
            running.drain("nowhere")


def test_a_killed_controller_serves_again_by_itself_and_keeps_its_workers(
    cluster: Any, models: Path, tmp_path: Path
) -> None:
    with fleet(models, state_dir=str(tmp_path)) as running, Load(running) as load:
        before = running.status()
        assert before.controller.pid is not None
        kill(before.controller.pid)
        eventually("the controller is back", lambda: restarted(running, before.controller))
        load.follow()
        load.continues()
        after = running.status()
        assert [worker.pid for worker in after.workers] == [worker.pid for worker in before.workers]


def test_workers_find_a_controller_whose_actor_was_restarted(cluster: Any, models: Path) -> None:
    with fleet(models) as running, Load(running) as load:
        before = running.status()
        ray.kill(actor(before.controller.name), no_restart=False)
        eventually("the controller is back", lambda: restarted(running, before.controller))
        eventually("the workers are connected", lambda: ready(running))
        load.follow()
        load.continues()
        after = running.status()
        assert after.addresses["workers"] != before.addresses["workers"]
        assert [worker.pid for worker in after.workers] == [worker.pid for worker in before.workers]


def test_a_fleet_grows_and_shrinks_without_a_failed_request(cluster: Any, models: Path) -> None:
    with fleet(models, workers=1) as running, Load(running) as load:
        running.scale(3)
        assert len(running.wait_until_ready(PATIENCE).workers) == 3
        load.continues()
        running.scale(1)
        assert [worker.name for worker in running.status().workers] == [f"{running.name}:worker-1"]
        load.continues()
        assert load.failed() == 0, load.errors


def test_stopping_a_fleet_answers_the_pending_requests(cluster: Any, models: Path) -> None:
    with fleet(models) as running, Load(running) as load:
        running.stop()
        assert running.parts() == []
        assert load.outcomes.keys() <= {"ok", "503", "cut"}, load.errors
        refused = [error for error in load.errors if error.startswith("{")]
        assert all("shutting down" in error for error in refused), refused
        with pytest.raises(InvalidRequestError, match="no fleet with the name"):
            attach(running.name)


def test_a_worker_without_a_node_is_pending_while_the_others_serve(cluster: Any, models: Path) -> None:
    with fleet(models, workers=1) as running, Load(running) as load:
        running.scale(50)
        eventually("all places are taken", lambda: sum(it.state == "ready" for it in running.status().workers) == 4)
        pending = [it for it in running.status().workers if it.state == "pending"]
        assert len(pending) == 46
        assert "free resources" in pending[0].reason
        load.continues()
        running.scale(2)
        assert [it.state for it in running.status().workers] == ["ready", "ready"]


def test_a_wrong_option_is_reported_and_leaves_nothing_behind(cluster: Any, models: Path) -> None:
    with pytest.raises(StartFailedError, match=r"wrong:controller does not start: .*invalid duration 'soon'.*log: "):
        start(["dense.onnx"], name="wrong", controller_options=("--slo=soon",), timeout=PATIENCE)
    with pytest.raises(InvalidRequestError, match="no fleet with the name wrong"):
        attach("wrong")


def test_other_versions_on_a_node_are_reported(cluster: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"clockwork": "9.9", "ray": ray.__version__, "python": "3"}
    monkeypatch.setattr("clockwork.ray.fleet.own_versions", lambda: expected)
    with pytest.raises(
        StartFailedError, match=r"node .* has clockwork .*, but the fleet was started with clockwork 9.9"
    ):
        start(["dense.onnx"], name="older", timeout=PATIENCE)


def test_a_second_fleet_needs_another_name(cluster: Any, models: Path) -> None:
    with fleet(models, workers=1) as running:
        with pytest.raises(InvalidRequestError, match=f"a fleet with the name {running.name} exists already"):
            start(name=running.name)
        with fleet(models, workers=1) as second:
            assert second.status().is_ready
