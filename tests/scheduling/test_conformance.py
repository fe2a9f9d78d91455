"""Every scheduler that comes with Clockwork, and every example, passes the suite; broken ones do not."""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer, Command
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.registry import BUILT_IN, make_scheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.sim.timer import EndlessWakeupsError
from clockwork.state import GPUState, PendingRequest
from clockwork.testing import check_scheduler
from clockwork.units import Nanos

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_schedulers_conform(name: str) -> None:
    check_scheduler(BUILT_IN[name], seeds=1, executes=name != "echo")


@pytest.mark.parametrize("name", ["at_home:AtHome", "least_loaded:LeastLoaded"])
def test_the_examples_conform(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    try:
        check_scheduler(lambda: make_scheduler(name), seeds=1)
    finally:
        sys.modules.pop(name.partition(":")[0], None)


class Raises(SimpleScheduler):
    """Raises at every tenth request."""

    count = 0

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        self.count += 1
        if self.count % 10 == 0:
            raise RuntimeError("a defect")
        return super().infer(now, request)


class AnswersTwice(SimpleScheduler):
    """Answers what has been answered."""

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Command]:
        commands = super().result(now, gpu, action, result)
        if isinstance(action, Infer):
            commands.append(Answer(action.inputs[0].request_id, Status.ERROR, "again"))
        return commands


class EvictsWhatIsInUse(SimpleScheduler):
    """Evicts a model right after it has sent an Infer."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        commands = super().infer(now, request)
        for command in list(commands):
            action = getattr(command, "action", None)
            if isinstance(action, Infer):
                gpu = next(gpu for gpu in self.state.gpus() if action.id in gpu.outstanding)
                commands.append(gpu.evict_weights(action.model))
        return commands


class ServesNobody(Scheduler):
    """Refuses all."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, "no")]

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Command]:
        return []


class NeverSleeps(SimpleScheduler):
    """Asks to be woken in the past, for ever."""

    def next_wakeup(self) -> Nanos | None:
        return 0


UNSEEDED = Random()


class Gambles(SimpleScheduler):
    """Refuses at random."""

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        if request.deadline - now < 1_000_000_000 and UNSEEDED.random() < 0.2:
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, "bad luck")]
        return super().infer(now, request)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (Raises, "the scheduler raised in infer: RuntimeError: a defect"),
        (AnswersTwice, "which is over"),
        (EvictsWhatIsInUse, "in use"),
        (ServesNobody, "was not served"),
        (Gambles, "not deterministic"),
    ],
)
def test_broken_ones_do_not(broken: Callable[[], Scheduler], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check_scheduler(broken, seeds=1)


def test_one_that_never_lets_time_pass_is_found_out() -> None:
    with pytest.raises(EndlessWakeupsError):
        check_scheduler(NeverSleeps, seeds=1)
