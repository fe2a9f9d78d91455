"""Random orders of actions, ends of tasks, failures and lost controllers: each action is answered exactly once."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clockwork.messages.actions import Action, ClearCache, GetWorkerState, LoadModelFromDisk, UnloadModel
from clockwork.messages.status import Status
from clockwork.worker.events import LaneKind, Outcome, TaskFailed
from worker.driven import HOST, Worker, evict, infer, load, read

MODELS = st.sampled_from(["a", "b", "c", "unknown"])
GPUS = st.sampled_from([0, 0, 0, 1, 1, 2])
DELAYS = st.sampled_from([0, 0, 1, 3])
LENGTHS = st.sampled_from([None, None, 0, 2, -1])


class Orders(RuleBasedStateMachine):
    """A controller whose actions are random except for their ids, and a host that executes them with random delays."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.ids = 0
        self.unanswered: dict[int, Action] = {}
        self.worker = Worker(pages=3, gpus=2).holding("a", "b", pages=1).warm("a")
        self.seen = len(self.worker.results)

    def new_id(self) -> int:
        self.ids += 1
        return self.ids

    def send(self, action: Action) -> None:
        self.unanswered[action.id] = action
        self.worker.receives(self.now, action)

    @rule(model=MODELS, gpu=GPUS, delay=DELAYS, length=LENGTHS, requests=st.integers(0, 3))
    def send_infer(self, model: str, gpu: int, delay: int, length: int | None, requests: int) -> None:
        earliest = self.now + delay
        latest = None if length is None else earliest + length
        self.send(infer(self.new_id(), model, gpu=gpu, requests=requests, earliest=earliest, latest=latest))

    @rule(model=MODELS, gpu=GPUS, delay=DELAYS, length=LENGTHS)
    def send_load(self, model: str, gpu: int, delay: int, length: int | None) -> None:
        earliest = self.now + delay
        latest = None if length is None else earliest + length
        self.send(load(self.new_id(), model, gpu=gpu, earliest=earliest, latest=latest))

    @rule(model=MODELS, gpu=GPUS, delay=DELAYS)
    def send_evict(self, model: str, gpu: int, delay: int) -> None:
        self.send(evict(self.new_id(), model, gpu=gpu, earliest=self.now + delay))

    @rule(model=MODELS, copies=st.sampled_from([0, 1, 1, 2]))
    def send_load_from_disk(self, model: str, copies: int) -> None:
        self.send(LoadModelFromDisk(self.new_id(), f"{model}.onnx", model, copies))

    @rule(models=st.lists(MODELS, max_size=2))
    def send_unload(self, models: list[str]) -> None:
        self.send(UnloadModel(self.new_id(), tuple(models)))

    @rule(clear=st.booleans())
    def send_other(self, clear: bool) -> None:
        self.send(ClearCache(self.new_id()) if clear else GetWorkerState(self.new_id()))

    @rule(after=st.integers(1, 4))
    def time_passes(self, after: int) -> None:
        self.now += after
        self.worker.wakes(self.now)

    @precondition(lambda self: self.worker.running)
    @rule(data=st.data(), well=st.sampled_from([True, True, True, False]), pages=st.integers(1, 4), after=DELAYS)
    def a_task_ends(self, data: st.DataObject, well: bool, pages: int, after: int) -> None:
        gpu, lane = data.draw(st.sampled_from(list(self.worker.running)))
        self.now += after
        self.end(gpu, lane, well, pages)

    def end(self, gpu: int | None, lane: LaneKind, well: bool, pages: int) -> None:
        outcome: Outcome | None = None if well else TaskFailed(Status.RUNTIME_ERROR, "it broke")
        if well and lane is HOST and isinstance(self.worker.running[gpu, lane].action, LoadModelFromDisk):
            outcome = read(pages)
        self.worker.ends(self.now, lane, outcome, gpu=gpu or 0)

    @rule()
    def the_controller_is_lost(self) -> None:
        self.worker.abandoned(self.now)
        self.note_results()
        self.unanswered.clear()

    @invariant()
    def note_results(self) -> None:
        for result in self.worker.results[self.seen :]:
            assert result.id in self.unanswered, "answered twice, or after its controller was lost"
            del self.unanswered[result.id]
        self.seen = len(self.worker.results)
        for gpu in self.worker.core.info().gpus:
            assert len(gpu.models) <= 3

    @precondition(lambda self: self.ids > 15)
    @rule()
    def it_leaves(self) -> None:
        self.worker.leaves(self.now)

    def teardown(self) -> None:
        """At the end every action has been answered, and none was started twice."""
        for _ in range(10_000):
            if self.worker.running:
                self.end(*next(iter(self.worker.running)), True, 1)
            elif self.worker.core.next_wakeup() is not None:
                self.now += 1
                self.worker.wakes(self.now)
            else:
                break
        self.note_results()
        assert not self.unanswered
        started = Counter(action_id for action_id in self.worker.started if action_id > 0)
        assert max(started.values(), default=0) <= 2, "only a ClearCache is a task on each device"


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
