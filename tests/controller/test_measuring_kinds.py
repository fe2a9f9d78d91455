"""Measurements while the server serves a fleet with several kinds of devices."""

from msgspec.structs import replace

from builders import infer_request
from clockwork.controller.config import ControlMode, LoadSpec, ProfilingConfig
from clockwork.messages.actions import Infer
from clockwork.messages.commands import SendAction
from clockwork.messages.requests import LoadModelRequest, LoadModelResponse, ModelVersion
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from clockwork.state import ModelState
from clockwork.units import ms, seconds
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File

PROFILING = ProfilingConfig(max_batch_size=1, min_samples=5, max_samples=5)
EXECUTION = ms(80)


def serving() -> Cluster:
    """Return a cluster that serves the model "a" on a fast and a slow device."""
    config = quick_config(workers=2, models=(LoadSpec("a"),), control=ControlMode.EXPLICIT, profiling=PROFILING)
    cluster = Cluster(make_scheduler("fifo"), config)
    for kind in ("fast", "slow"):
        files = {path: File(infer=EXECUTION) for path in ("a", "b", "c")}
        cluster.connect(FakeWorker(kind, files, kind=kind))
    cluster.run_until(seconds(2))
    cluster.ask(infer_request(10))
    cluster.run_until(seconds(10))
    return cluster


def load(cluster: Cluster, id: int, path: str) -> None:
    cluster.ask(LoadModelRequest(id, path, path, versions=(ModelVersion("1", path),)))


def executions(cluster: Cluster, model: str) -> int:
    """Return how often a model was executed."""
    actions = [command.action for _, command in cluster.said if isinstance(command, SendAction)]
    return sum(isinstance(action, Infer) and action.model == model for action in actions)


def test_a_model_that_is_not_ready_is_measured_before_other_kinds_of_devices() -> None:
    cluster = serving()
    load(cluster, 1, "b")
    load(cluster, 2, "c")
    cluster.run_until(cluster.now + 2 * 5 * EXECUTION + ms(200))  # two warm-ups and three samples for each model
    answers = [cluster.answer(1), cluster.answer(2)]
    assert all(isinstance(answer, LoadModelResponse) and answer.status == Status.SUCCESS for answer in answers)


def test_few_measurements_are_executed_by_devices_of_another_kind() -> None:
    cluster = serving()
    load(cluster, 1, "b")
    cluster.run_until(cluster.now + 60 * EXECUTION)
    assert not cluster.controller._serving.own.measuring.pending
    assert executions(cluster, "b") == 2 + 5 + 10  # the warm-ups, the samples, and the misses
    assert cluster.state.models["b"].profiles.keys() == {"fast", "slow"}


def test_a_model_with_known_times_on_one_kind_of_device_is_ready() -> None:
    cluster = serving()
    measuring = cluster.controller._serving.own.measuring
    served = cluster.state.models["a"]
    known, new = (ModelState(replace(served.info, name=name, digest=name)) for name in ("known", "new"))
    known.profiles["fast"] = served.profiles["fast"]
    measuring.add(known, ["slow"])
    measuring.add(new, ["fast", "slow"])
    request = measuring.begin(cluster.now, 1, idle=True)
    assert request is not None
    assert request.model is new
