"""The stage QUERYING: every worker reports its state."""

import pytest
from msgspec.structs import replace

from builders import copies_of, model_info, worker_info
from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.events import DropWorker, Report, StageEntered, WorkerConnected, WorkerResult
from clockwork.controller.stage import Stage
from clockwork.messages.actions import GetWorkerState, LoadModelFromDisk, UnloadModel
from clockwork.messages.commands import SendAction
from clockwork.messages.findings import Finding, Level
from clockwork.messages.requests import LoadModelResponse
from clockwork.messages.results import ErrorResult, GetWorkerStateResult, GPUInfo, UnloadModelResult, WorkerInfo
from clockwork.messages.status import Status
from clockwork.scheduling.echo import EchoScheduler
from clockwork.units import ms, seconds
from clockwork.version import __version__
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File

FILES = {"a.onnx": File(), "b.onnx": File()}


def a_cluster(workers: int = 1) -> Cluster:
    return Cluster(EchoScheduler(), quick_config(workers=workers))


def test_a_worker_that_connects_is_asked_for_its_state() -> None:
    controller = ControllerWithStartupPhase(EchoScheduler())
    commands = controller.handle(0, WorkerConnected("w0"))
    assert commands[-1] == SendAction("w0", GetWorkerState(1))
    assert controller.stage is Stage.QUERYING


def test_the_version_of_a_worker_is_in_the_status_and_another_version_is_reported() -> None:
    cluster = a_cluster(workers=2)
    cluster.workers = {"old": FakeWorker("old", FILES), "same": FakeWorker("same", FILES)}
    cluster.feed(WorkerConnected("old", "clockwork 0.0.1"))
    cluster.feed(WorkerConnected("same", f"clockwork {__version__}"))
    cluster.run_until(seconds(1))
    reports = [(c.event, c.text) for _, c in cluster.said if isinstance(c, Report) and c.event == "worker_version"]
    text = f"worker old runs clockwork 0.0.1; this controller runs clockwork {__version__}"
    assert reports == [("worker_version", text)]
    workers = cluster.controller.description(cluster.now).server().workers
    assert {worker.id: worker.software for worker in workers} == {
        "old": "clockwork 0.0.1",
        "same": f"clockwork {__version__}",
    }


def test_the_status_contains_what_a_worker_found_on_its_machine() -> None:
    controller = ControllerWithStartupPhase(EchoScheduler())
    controller.handle(0, WorkerConnected("w0"))
    findings = (Finding("cpu quota", Level.BAD, "1.5 cores"), Finding("isolation", Level.NOTE, "none"))
    controller.handle(0, WorkerResult("w0", GetWorkerStateResult(1, replace(worker_info(), findings=findings))))
    (worker,) = controller.description(0).server().workers
    assert worker.findings == findings


def test_loading_begins_when_the_configured_number_of_workers_has_reported() -> None:
    cluster = a_cluster(workers=2)
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(seconds(100))
    assert cluster.stage is Stage.QUERYING
    cluster.connect(FakeWorker("w1", FILES))
    cluster.run_until(seconds(100))
    assert cluster.stages() == [(seconds(100), "loading")]


def test_loading_does_not_begin_before_every_connected_worker_has_reported() -> None:
    cluster = a_cluster(workers=1)
    slow = FakeWorker("w1", FILES)
    slow.silent = {"GetWorkerState"}
    cluster.connect(FakeWorker("w0", FILES))
    cluster.connect(slow)
    cluster.run_until(seconds(5))
    assert cluster.stage is Stage.QUERYING
    cluster.feed(WorkerResult("w1", GetWorkerStateResult(slow.unanswered[0].id, slow.info())))
    assert cluster.stages() == [(seconds(5), "loading")]


def test_a_worker_that_never_reports_its_state_is_dropped_and_delays_no_other() -> None:
    controller = ControllerWithStartupPhase(EchoScheduler())
    controller.handle(seconds(1), WorkerConnected("w0"))
    assert controller.next_wakeup() == seconds(61)
    assert controller.wake(seconds(61)) == [DropWorker("w0", "the worker did not report its state within 60 s")]
    assert controller.next_wakeup() is None
    controller.handle(seconds(62), WorkerConnected("w1"))
    report = GetWorkerStateResult(2, worker_info())
    assert StageEntered("loading") in controller.handle(seconds(63), WorkerResult("w1", report))


def test_the_controller_does_not_wait_for_a_worker_lost_before_it_reported() -> None:
    cluster = a_cluster(workers=1)
    slow = FakeWorker("w1", FILES)
    slow.silent = {"GetWorkerState"}
    cluster.connect(slow)
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(seconds(5))
    cluster.lose("w1")
    assert cluster.stages() == [(seconds(5), "loading")]


def test_the_controller_waits_again_for_a_worker_lost_after_it_reported() -> None:
    cluster = a_cluster(workers=2)
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(seconds(1))
    cluster.lose("w0")
    cluster.connect(FakeWorker("w1", FILES))
    cluster.run_until(seconds(2))
    assert cluster.stage is Stage.QUERYING
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(seconds(3))
    assert cluster.stages() == [(seconds(2), "loading")]


A_GPU = GPUInfo(0, "gpu", 2)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ErrorResult(1, "GetWorkerState", Status.SHUTTING_DOWN, "not now"), "not now"),
        (UnloadModelResult(1), "UnloadModelResult"),
        (GetWorkerStateResult(1, WorkerInfo(1, ())), "no devices"),
        (GetWorkerStateResult(1, WorkerInfo(1, (A_GPU, A_GPU))), "a device twice"),
        (GetWorkerStateResult(1, WorkerInfo(1, (GPUInfo(0, "gpu", -1),))), "-1 pages"),
        (GetWorkerStateResult(1, worker_info(warm=("a",))), "does not hold"),
        (GetWorkerStateResult(1, worker_info([model_info(pages=3)], pages=2, warm=("a",))), "more pages than its 2"),
        (GetWorkerStateResult(1, worker_info([model_info(pages=-3)], warm=("a",))), "cannot take -3"),
    ],
)
def test_a_worker_that_reports_an_invalid_state_is_dropped(answer: GetWorkerStateResult, reason: str) -> None:
    controller = ControllerWithStartupPhase(EchoScheduler())
    controller.handle(0, WorkerConnected("w0"))
    (command,) = controller.handle(0, WorkerResult("w0", answer))
    assert isinstance(command, DropWorker)
    assert reason in command.reason
    assert controller.stage is Stage.QUERYING


def test_an_answer_counts_only_from_the_worker_that_was_asked() -> None:
    controller = ControllerWithStartupPhase(EchoScheduler(), quick_config(workers=2))
    controller.handle(0, WorkerConnected("w0"))
    controller.handle(0, WorkerConnected("w1"))
    controller.handle(0, WorkerResult("w1", GetWorkerStateResult(1, worker_info())))  # query 1 was sent to w0
    controller.handle(0, WorkerResult("w1", GetWorkerStateResult(2, worker_info())))
    assert controller.stage is Stage.QUERYING
    controller.handle(0, WorkerResult("w0", GetWorkerStateResult(1, worker_info())))
    assert controller.stage is Stage.LOADING


def test_an_answer_to_a_query_of_an_earlier_connection_does_not_count() -> None:
    controller = ControllerWithStartupPhase(EchoScheduler())
    controller.handle(0, WorkerConnected("w0"))
    controller.handle(0, WorkerConnected("w0"))
    controller.handle(0, WorkerResult("w0", GetWorkerStateResult(1, worker_info())))
    assert controller.stage is Stage.QUERYING
    controller.handle(0, WorkerResult("w0", GetWorkerStateResult(2, worker_info())))
    assert controller.stage is Stage.LOADING


def test_models_found_on_workers_are_served_and_do_not_start_the_countdown() -> None:
    cluster = a_cluster()
    cluster.connect(FakeWorker("w0", FILES).hold("a.onnx", copies=2, warm=True))
    cluster.run_until(seconds(3600))
    assert cluster.stage is Stage.LOADING
    assert sorted(cluster.state.models) == ["a-1", "a-2"]
    assert not cluster.actions(LoadModelFromDisk)


def test_models_found_on_some_workers_are_loaded_on_the_others() -> None:
    cluster = a_cluster(workers=2)
    cluster.connect(FakeWorker("w0", FILES).hold("a.onnx", copies=2))
    cluster.connect(FakeWorker("w1", FILES).hold("b.onnx", "c"))
    cluster.run_until(seconds(1))
    loads = [(send.worker_id, send.action.name, send.action.path) for send in cluster.actions(LoadModelFromDisk)]
    assert sorted(loads) == [("w0", "c", "b.onnx"), ("w1", "a", "a.onnx")]
    assert all(sorted(worker.models) == ["a-1", "a-2", "c"] for worker in cluster.workers.values())


def test_of_two_contents_with_one_name_the_first_is_kept() -> None:
    other = {"a.onnx": File("other content")}
    cluster = a_cluster(workers=2)
    cluster.connect(FakeWorker("w0", FILES).hold("a.onnx"))
    cluster.connect(FakeWorker("w1", other).hold("a.onnx", warm=True))
    cluster.run_until(seconds(1))
    assert [(s.worker_id, s.action.models) for s in cluster.actions(UnloadModel)][:1] == [("w1", ("a",))]
    assert cluster.state.models["a"].info.digest == "sha-a.onnx"
    assert list(cluster.workers["w1"].models) == []
    assert any("other content" in text for text in cluster.reports("ERROR"))


def test_a_load_requested_during_querying_waits_for_loading() -> None:
    cluster = a_cluster()
    cluster.load("a.onnx", id=1)
    cluster.run_until(seconds(60))
    assert cluster.answer(1) is None
    cluster.connect(FakeWorker("w0", FILES))
    cluster.run_until(seconds(60) + ms(5))
    assert cluster.answer(1) == LoadModelResponse(1, Status.SUCCESS, "", ("a",))


def test_a_worker_that_holds_all_copies_of_a_load_does_not_load_them_again() -> None:
    controller = ControllerWithStartupPhase(EchoScheduler())
    controller.handle(0, WorkerConnected("w0"))
    info = worker_info([*copies_of("a", 2), model_info("b")])
    commands = controller.handle(0, WorkerResult("w0", GetWorkerStateResult(1, info)))
    assert not any(isinstance(command, SendAction) for command in commands)
