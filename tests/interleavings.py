"""Tests random interleavings of the events of clients and workers. Each request must get one response.

`cluster.Cluster` checks the invariants after every event, which include the accounts of memory. At the end, all workers
reconnect, time passes, and no request may still be pending.
"""

from collections.abc import Callable
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from msgspec.structs import replace

from builders import infer_request, tensors
from clockwork.controller.config import ControlMode, LoadSpec, ShadowingConfig, ShadowSpec, VerifyingConfig
from clockwork.controller.events import Drain, Drained, WorkerResult
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    ListModelsRequest,
    LoadModelRequest,
    ModelVersion,
    PromoteRequest,
    ShadowRequest,
    StatusRequest,
    UnloadModelRequest,
)
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec, spec
from clockwork.scheduling.base import Scheduler, changes_models
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, quick_config
from effort import scaled
from fake_worker import FakeWorker, File

FILES = {
    "a.onnx": File(),
    "b.onnx": File(pages=2, load=ms(12)),
    "c.onnx": File(batchable=False, infer=ms(30)),
    "d.onnx": File(largest_batch=0),
}
CHANGED = FILES | {"b.onnx": File("other content", pages=1)}

NAMED = (LoadSpec("a.onnx"), LoadSpec("b.onnx"), LoadSpec("c.onnx"))
VERSIONS = (LoadSpec("a.onnx", "a", version="1"), LoadSpec("b.onnx", "a", version="2"), LoadSpec("c.onnx"))

WORKERS = st.integers(0, 2)
PATHS = st.sampled_from([*FILES, "missing.onnx"])
MODELS = st.sampled_from(["a", "b", "c"])
UNKNOWN_MODELS = st.sampled_from(["a-1", "a-2", "d", "unknown"])
SLOS = st.sampled_from([None, ms(100), ms(1), ms(8), ms(25), ms(100), ms(1000), 0, -1])
PAUSES = st.sampled_from([0, ms(1), ms(3), ms(8), ms(30), ms(100), seconds(1), seconds(3)])
ACTIONS = st.sampled_from(["GetWorkerState", "LoadModelFromDisk", "LoadWeights", "EvictWeights", "Infer"])
WRONG_INPUTS: tuple[tuple[TensorSpec, ...], ...] = (
    (),
    tensors() + tensors(),
    (spec("z", "FP32", (1, 2)),),
    (spec("x", "INT8", (1, 2)),),
    (spec("x", "FP32", (1, 3)),),
    (spec("x", "FP32", (-1, 2)),),
)


class Interleavings(RuleBasedStateMachine):
    """Generates interleavings for Hypothesis; see the module's docstring."""

    scheduler: ClassVar[Callable[[], Scheduler]]
    faultless: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.ids = 0

    def new_id(self) -> int:
        self.ids += 1
        return self.ids

    @initialize(
        workers=st.integers(1, 3),
        gpus=st.integers(1, 2),
        pages=st.integers(2, 4),
        named=st.sampled_from([NAMED, NAMED, VERSIONS, ()]),
        head_start=st.sampled_from([seconds(1), 0]),
        drain=st.sampled_from([None, None, ms(5), seconds(5)]),
        share=st.sampled_from([0.0, 1.0]),
        difference=st.sampled_from(["", "", "it differs", None]),
        control=st.sampled_from([ControlMode.NONE, ControlMode.EXPLICIT]),
    )
    def begin(
        self,
        workers: int,
        gpus: int,
        pages: int,
        named: tuple[LoadSpec, ...],
        head_start: Nanos,
        drain: Nanos | None,
        share: float,
        difference: str | None,
        control: ControlMode,
    ) -> None:
        self.drain = drain
        scheduler = type(self).scheduler()
        if not changes_models(scheduler):
            control = ControlMode.NONE
        config = quick_config(
            workers=workers,
            models=named,
            load_timeout=seconds(1),
            initializing_timeout=seconds(2),
            max_pending=8,
            control=control,
        )
        config = replace(
            config,
            verifying=VerifyingConfig(share, max_waiting=3, slo=ms(200)),
            shadowing=ShadowingConfig(max_waiting=3, slo=ms(200)),
            shadows={"a": ShadowSpec("2", 1.0)} if named is VERSIONS else {},
        )
        self.cluster = Cluster(scheduler, config)
        self.cluster.differs = lambda command: difference
        self.away = [FakeWorker(f"w{i}", FILES, gpus=gpus, pages=pages) for i in range(3)]
        self.gpus, self.pages = gpus, pages
        for i in range(workers):
            self.cluster.connect(self.away[i])
        self.cluster.run_until(head_start)

    # --- workers -----------------------------------------------------------------------------------------------------

    @rule(i=WORKERS)
    def come_back(self, i: int) -> None:
        """Reconnect a worker with all its models, whether or not the controller noticed that it was away."""
        self.cluster.connect(self.away[i])

    @rule(i=WORKERS, files=st.sampled_from([FILES, FILES, CHANGED]), kind=st.sampled_from(["gpu", "gpu", "new"]))
    def come_back_empty(self, i: int, files: dict[str, File], kind: str) -> None:
        self.away[i] = FakeWorker(f"w{i}", files, gpus=self.gpus, pages=self.pages, kind=kind)
        self.cluster.connect(self.away[i])

    @rule(i=WORKERS, path=st.sampled_from(["a.onnx", "b.onnx"]))
    def come_warm(self, i: int, path: str) -> None:
        worker = FakeWorker(f"w{i}", FILES, gpus=self.gpus, pages=self.pages)
        self.away[i] = worker.hold(path, warm=True)
        self.cluster.connect(worker)

    @rule(i=WORKERS)
    def lose(self, i: int) -> None:
        if f"w{i}" in self.cluster.workers:
            self.cluster.lose(f"w{i}")

    @rule(i=WORKERS, action=ACTIONS, status=st.sampled_from([Status.ERROR, Status.RUNTIME_ERROR]))
    def next_one_fails(self, i: int, action: str, status: Status) -> None:
        self.away[i].fail[action] = (status, "injected")

    @rule(i=WORKERS, id=st.integers(0, 40))
    def say_what_was_not_asked(self, i: int, id: int) -> None:
        outstanding = self.cluster.workers.get(f"w{i}")
        if outstanding is not None and not outstanding.outstanding():
            self.cluster.feed(WorkerResult(f"w{i}", ErrorResult(id, "Infer", Status.ERROR, "a lie")))

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(path=PATHS, copies=st.sampled_from([1, 1, 2, 0, 1 << 40]))
    def load(self, path: str, copies: int) -> None:
        self.cluster.load(path, self.new_id(), copies=copies)

    @rule(
        name=MODELS, paths=st.lists(PATHS, min_size=1, max_size=2, unique=True), keep=st.booleans(), wait=st.booleans()
    )
    def load_versions(self, name: str, paths: list[str], keep: bool, wait: bool) -> None:
        versions = tuple(ModelVersion(str(number), path) for number, path in enumerate(paths, 1))
        self.cluster.ask(LoadModelRequest(self.new_id(), paths[0], name, versions=versions, keep=keep, wait=wait))

    @rule(name=MODELS, version=st.sampled_from(["", "", "1", "2"]), wait=st.booleans())
    def unload(self, name: str, version: str, wait: bool) -> None:
        self.cluster.ask(UnloadModelRequest(self.new_id(), name, version, wait))

    @rule(name=MODELS, version=st.sampled_from(["1", "2"]), label=st.sampled_from(["", "canary"]))
    def promote(self, name: str, version: str, label: str) -> None:
        self.cluster.ask(PromoteRequest(self.new_id(), name, version, label))

    @rule(name=MODELS, version=st.sampled_from(["", "1", "2"]), share=st.sampled_from([1.0, 1.0, 0.5, 0.0]))
    def shadow(self, name: str, version: str, share: float) -> None:
        self.cluster.ask(ShadowRequest(self.new_id(), name, version, share))

    @rule(model=MODELS, client=st.integers(1, 2), rows=st.sampled_from([1, 1, 2, 0, 1 << 40]), slo=SLOS)
    def infer(self, model: str, client: int, rows: int, slo: Nanos | None) -> None:
        self.cluster.ask(infer_request(self.new_id(), model, rows=rows, slo=slo), client)

    @rule(models=st.lists(MODELS, min_size=2, max_size=8), pause=PAUSES)
    def burst(self, models: list[str], pause: Nanos) -> None:
        for model in models:
            self.cluster.ask(infer_request(self.new_id(), model))
        self.cluster.run_until(self.cluster.now + pause)

    @rule(
        inputs=st.sampled_from(WRONG_INPUTS),
        model=UNKNOWN_MODELS,
        factor=st.sampled_from([None, 2.0, 0.0, float("nan"), float("inf")]),
    )
    def infer_wrongly(self, inputs: tuple[TensorSpec, ...], model: str, factor: float | None) -> None:
        self.cluster.ask(infer_request(self.new_id(), inputs=inputs))
        self.cluster.ask(infer_request(self.new_id(), model))
        self.cluster.ask(infer_request(self.new_id(), slo_factor=factor))

    @rule()
    def look(self) -> None:
        self.cluster.ask(ListModelsRequest(self.new_id()))
        self.cluster.ask(StatusRequest(self.new_id()))

    @rule(model=MODELS)
    def evict(self, model: str) -> None:
        self.cluster.ask(EvictRequest(self.new_id(), model))

    @rule(back=st.integers(0, 4), client=st.integers(1, 2))
    def cancel(self, back: int, client: int) -> None:
        asked = (client, self.ids - back)
        if asked in self.cluster.asked and hasattr(self.cluster.asked[asked], "slo"):
            self.cluster.ask(CancelRequest(self.ids - back), client)

    @rule()
    def lose_client(self) -> None:
        self.cluster.lose_client(2)

    # --- time --------------------------------------------------------------------------------------------------------

    @rule(pause=PAUSES)
    def let_time_pass(self, pause: Nanos) -> None:
        self.cluster.run_until(self.cluster.now + pause)

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        if self.drain is not None:
            self.cluster.feed(Drain(self.drain))
        for i, worker in enumerate(self.away):
            worker.fail.clear()
            if f"w{i}" not in self.cluster.workers:
                self.cluster.connect(worker)
        self.cluster.run_until(self.cluster.now + seconds(60))
        self.cluster.check_all_answered()
        self.cluster.check_rest()
        ends = sum(isinstance(command, Drained) for _, command in self.cluster.said)
        assert ends == (self.drain is not None)
        complaints = [text for text in self.cluster.reports("ERROR") if "scheduler" in text]
        assert not (complaints and self.faultless), complaints


def check_interleavings(scheduler: Callable[[], Scheduler], *, faultless: bool = True, examples: int = 80) -> None:
    """Drive a controller with this scheduler through many interleavings, which are the same in every run.

    If ``faultless``, the controller must not report any error of the scheduler.
    """
    attributes = {"scheduler": staticmethod(scheduler), "faultless": faultless}
    machine = type("Interleavings", (Interleavings,), attributes)
    settled = settings(
        max_examples=scaled(examples), stateful_step_count=50, derandomize=True, database=None, deadline=None
    )
    run_state_machine_as_test(machine, settings=settled)
