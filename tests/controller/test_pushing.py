"""The controller sends the files of models to workers that lack them, and each load then continues."""

from collections.abc import Sequence
from functools import partial

import pytest

from builders import infer_request
from clockwork.controller.config import ControlMode, LoadSpec
from clockwork.controller.events import DescribeModel, ModelDescribed, Respond, WorkerResult
from clockwork.controller.pacing import Pace
from clockwork.controller.pushing import MAX_AHEAD, MAX_TRANSFERS, Pushes
from clockwork.controller.stage import Stage
from clockwork.messages.actions import FetchModel, LoadModelFromDisk
from clockwork.messages.commands import SendAction
from clockwork.messages.requests import LoadModelResponse
from clockwork.messages.results import FetchModelResult
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from clockwork.state.gpu import ActionQueue
from clockwork.units import MIB, SECOND, ms, seconds
from cluster import Cluster, quick_config
from controller.test_changes import FILES, load, status
from fake_worker import FakeWorker, File

LACKING = {path: file for path, file in FILES.items() if path != "b/1"}


NAMED = (LoadSpec("a/1"),)


def lacking(name: str = "lacks", disk: dict[str, File] = LACKING) -> FakeWorker:
    worker = FakeWorker(name, disk)
    worker.accepts = ("FetchModel",)
    worker.receivable = FILES
    return worker


def a_cluster(*models: str, pushes: bool = True, worker: FakeWorker | None = None) -> Cluster:
    named = tuple(LoadSpec(path) for path in models)
    config = quick_config(workers=2, models=named, control=ControlMode.EXPLICIT, pushes_models=pushes)
    cluster = Cluster(make_scheduler("clockwork"), config)
    cluster.connect(FakeWorker("has", FILES))
    cluster.connect(worker or lacking())
    cluster.run_until(seconds(3))
    return cluster


def described(cluster: Cluster) -> list[DescribeModel]:
    return [command for _, command in cluster.said if isinstance(command, DescribeModel)]


def lacks(cluster: Cluster) -> dict[str, dict[str, str]]:
    workers = cluster.controller.description(cluster.now).server().workers
    return {worker.id: worker.lacks for worker in workers if worker.lacks}


def test_a_worker_that_lacks_a_file_at_the_start_receives_it_and_serves_the_model() -> None:
    cluster = a_cluster("a/1", "b/1")
    assert cluster.stage is Stage.SERVING
    (fetch,) = cluster.actions(FetchModel)
    assert (fetch.worker_id, fetch.action.content, fetch.action.nbytes) == ("lacks", "content of b/1", 1000)
    loads = [sent.action for sent in cluster.actions(LoadModelFromDisk, "lacks") if sent.action.path == "b/1"]
    assert [action.content for action in loads] == ["", "content of b/1"]
    assert "b" in cluster.workers["lacks"].models
    assert not lacks(cluster)
    cluster.check_rest()


def test_a_load_while_serving_sends_the_file_and_succeeds_on_all_workers() -> None:
    cluster = a_cluster("a/1")
    load(cluster, 1, "b", "1")
    cluster.run_until(cluster.now + seconds(3))
    assert status(cluster, 1) == Status.SUCCESS
    assert len(cluster.actions(FetchModel)) == 1
    assert not lacks(cluster)
    assert not [text for text in cluster.reports("WARNING") if "not on all workers" in text]
    cluster.check_rest()


def test_requests_and_other_loads_go_on_while_a_file_is_sent() -> None:
    worker = lacking()
    worker.silent = {"FetchModel"}
    cluster = a_cluster("a/1", worker=worker)
    load(cluster, 1, "b", "1")
    load(cluster, 2, "c", "1")
    cluster.run_until(cluster.now + seconds(3))
    assert cluster.answer(1) is None
    assert status(cluster, 2) == Status.SUCCESS
    cluster.ask(infer_request(3, "c"))
    cluster.run_until(cluster.now + ms(100))
    assert status(cluster, 3) == Status.SUCCESS
    worker.disk = FILES
    cluster.feed(WorkerResult("lacks", FetchModelResult(worker.unanswered[0].id, 1000)))
    cluster.run_until(cluster.now + seconds(3))
    assert status(cluster, 1) == Status.SUCCESS
    cluster.check_rest()


def test_a_transfer_that_fails_leaves_the_model_to_the_other_workers_and_the_reason_is_shown() -> None:
    worker = lacking()
    worker.fail["FetchModel"] = (Status.INVALID_MODEL, "the disk is full")
    cluster = a_cluster("a/1", "b/1", worker=worker)
    assert cluster.stage is Stage.SERVING
    text = "there is no b/1; the controller cannot send the file: the disk is full"
    assert lacks(cluster) == {"lacks": {"b": text}}
    assert len(cluster.actions(FetchModel)) == 1


def test_a_file_that_the_controller_lacks_too_is_reported_with_both_reasons() -> None:
    config = quick_config(workers=1, control=ControlMode.EXPLICIT, pushes_models=True)
    cluster = Cluster(make_scheduler("clockwork"), config)
    cluster.describes = lambda command: ModelDescribed(command.path, command.name, problem="there is no such file here")
    cluster.connect(lacking("w0"))
    cluster.load("b/1", 1)
    cluster.run_until(seconds(5))
    answer = cluster.answer(1)
    assert isinstance(answer, LoadModelResponse)
    assert answer.status == Status.INVALID_REQUEST
    text = "worker w0: there is no b/1; the controller cannot send the file: there is no such file here"
    assert answer.message == text


@pytest.mark.parametrize(("pushes", "accepts"), [(False, ("FetchModel",)), (True, ()), (True, ("Other",))])
def test_no_file_is_sent_if_the_controller_sends_none_or_an_older_worker_cannot_receive_it(
    pushes: bool, accepts: tuple[str, ...]
) -> None:
    worker = lacking()
    worker.accepts = accepts
    cluster = a_cluster("a/1", "b/1", pushes=pushes, worker=worker)
    assert not described(cluster)
    assert not cluster.actions(FetchModel)
    assert lacks(cluster) == {"lacks": {"b": "there is no b/1"}}


def test_a_file_that_is_missing_again_after_it_was_sent_is_not_sent_for_ever() -> None:
    worker = lacking()
    worker.receivable = {}
    cluster = a_cluster("a/1", "b/1", worker=worker)
    assert len(cluster.actions(FetchModel)) == 1
    assert lacks(cluster) == {"lacks": {"b": "there is no b/1"}}


def test_a_worker_that_is_lost_during_a_transfer_continues_after_it_has_connected_again() -> None:
    worker = lacking()
    worker.silent = {"FetchModel"}
    cluster = a_cluster("a/1", worker=worker)
    load(cluster, 1, "b", "1")
    cluster.run_until(cluster.now + seconds(1))
    cluster.lose("lacks")
    cluster.run_until(cluster.now + seconds(3))
    assert status(cluster, 1) == Status.SUCCESS  # on the other worker
    worker.silent = set()
    cluster.connect(worker)
    cluster.run_until(cluster.now + seconds(3))
    assert len(cluster.actions(FetchModel)) == 2
    assert "b" in worker.models
    cluster.check_rest()


def test_a_worker_that_is_lost_while_the_files_are_hashed_gets_no_action() -> None:
    cluster = a_cluster("a/1")
    cluster.describes = lambda command: None
    load(cluster, 1, "b", "1")
    cluster.run_until(cluster.now + seconds(1))
    cluster.lose("lacks")
    (question,) = described(cluster)
    cluster.feed(ModelDescribed(question.path, question.name, "c", 5))
    cluster.run_until(cluster.now + seconds(3))
    assert not cluster.actions(FetchModel)
    assert status(cluster, 1) == Status.SUCCESS


def test_the_files_of_a_model_are_described_once_for_all_workers_that_wait() -> None:
    cluster = Cluster(make_scheduler("clockwork"), quick_config(workers=3, models=NAMED, pushes_models=True))
    cluster.describes = lambda command: None
    for number in range(3):
        cluster.connect(lacking(f"w{number}", {}))
    cluster.run_until(seconds(1))
    (question,) = described(cluster)
    cluster.feed(ModelDescribed(question.path, question.name, "c", 5))
    cluster.run_until(seconds(10))
    assert cluster.stage is Stage.SERVING
    assert len(cluster.actions(FetchModel)) == 3


def test_the_number_of_transfers_is_limited_in_total_and_for_each_worker() -> None:
    count = MAX_TRANSFERS + 3
    files = {"a.onnx": File(), "b.onnx": File()}
    named = tuple(LoadSpec(path) for path in files)
    cluster = Cluster(make_scheduler("clockwork"), quick_config(workers=count, models=named, pushes_models=True))
    workers = [lacking(f"w{i}", {}) for i in range(count)]
    for worker in workers:
        worker.receivable = files
        worker.silent = {"FetchModel"}
        cluster.connect(worker)
    served = most = 0
    while served < 2 * count:
        cluster.run_until(cluster.now + seconds(1))
        open_now = [(worker, action) for worker in workers for action in worker.unanswered]
        most = max(most, len(open_now))
        assert len({worker.id for worker, _ in open_now}) == len(open_now) > 0
        worker, action = open_now[0]
        worker.unanswered.remove(action)
        worker.disk = files
        cluster.feed(WorkerResult(worker.id, FetchModelResult(action.id, 1)))
        served += 1
    assert most == MAX_TRANSFERS
    cluster.run_until(cluster.now + seconds(5))
    assert cluster.stage is Stage.SERVING
    assert {command.path for command in described(cluster)} == set(files)
    assert cluster.controller._startup.pushes.pending == 0


def test_only_a_few_models_of_each_worker_are_described_ahead() -> None:
    pushes = Pushes(ActionQueue(), enabled=True)
    ended: list[str] = []
    open_now: dict[str, DescribeModel | SendAction] = {}  #: by worker and model
    described_ahead: list[int] = []

    def note(commands: Sequence[object]) -> None:
        for command in commands:
            if isinstance(command, DescribeModel):
                open_now[command.path] = command
            elif isinstance(command, SendAction):
                open_now[command.worker_id] = command

    for number in range(20):
        for worker in ("w0", "w1"):
            path = f"{worker}/{number}"
            note(pushes.begin(worker, path, path, partial(_note_end, ended, path)))
    while open_now:
        described_ahead.append(pushes.pending - sum(map(len, pushes._queues.values())))
        key, command = open_now.popitem()
        if isinstance(command, DescribeModel):
            problem = "it is broken" if command.path == "w1/3" else ""
            note(pushes.described(ModelDescribed(command.path, command.name, f"content of {key}", 1, problem)))
        else:
            assert pushes.owns(key, command.action.id)
            note(pushes.result(key, FetchModelResult(command.action.id, 1)))
    assert sorted(ended) == sorted(f"{worker}/{number}" for worker in ("w0", "w1") for number in range(20))
    assert max(described_ahead) == 2 * MAX_AHEAD
    assert pushes.pending == 0


def _note_end(ended: list[str], path: str, content: str, problem: str) -> list[Respond]:
    assert bool(problem) is (path == "w1/3")
    ended.append(path)
    return []


def test_the_rate_of_transfers_is_limited_and_idle_time_is_not_made_up_for() -> None:
    pace = Pace(10 * MIB)
    assert pace.reserve(5 * SECOND, MIB) == 0
    assert pace.reserve(5 * SECOND, MIB) == ms(100)
    assert pace.reserve(5 * SECOND + ms(50), MIB) == ms(150)
    assert pace.reserve(60 * SECOND, MIB) == 0
    assert pace.reserve(60 * SECOND, MIB) == ms(100)
