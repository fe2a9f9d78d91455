"""Earliest deadline first, with drop: a device's next batch is that of the most urgent request still in time.

One queue for all devices, in order of deadlines. Whenever a device has nothing to do it takes the most urgent request
whose weights it has; a request whose weights are nowhere has them loaded where there is room. A batch is grown with
requests of the same model as long as the most urgent of them is still in time. Who can no longer be in time, by the
measured times, is answered at that moment.
"""

from bisect import bisect_left, insort
from typing import ClassVar, Final

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer, Command
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.common import batch_from, failure, load_evicting_lru
from clockwork.state import ClockworkState, GPUState, PendingRequest, Residency, WorkerState
from clockwork.units import MILLISECOND, Nanos

MARGIN: Final[Nanos] = 1 * MILLISECOND
"""For the way to the device and back."""

LOOKED_AT: Final = 64
"""Urgent requests that a device looks at for one whose weights it has."""


class EdfScheduler(Scheduler):
    """See the module."""

    name: ClassVar[str] = "edf"

    def __init__(self) -> None:
        """No device yet."""
        self._idle: dict[GPUState, None] = {}
        self._devices: dict[GPUState, dict[int, list[PendingRequest]]] = {}  #: what was sent, by action id
        self._queue: list[tuple[Nanos, int, PendingRequest]] = []  #: by deadline

    def start(self, now: Nanos, state: ClockworkState) -> list[Command]:
        """Take all devices into service."""
        super().start(now, state)
        self._devices = {gpu: {} for gpu in state.gpus()}
        self._idle = dict.fromkeys(self._devices)
        return []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        """Queue it by its deadline."""
        if not any(gpu.can_hold(request.model.name) for gpu in self._devices):
            text = f"no device can hold {request.model.name} at present"
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, text)]
        insort(self._queue, (request.deadline, request.id, request), key=lambda entry: entry[:2])
        return self._advance(now)

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Command]:
        """Answer what failed; then the device takes what comes next."""
        commands: list[Command] = []
        sent = self._devices[gpu].pop(action.id, [])
        if isinstance(action, Infer):
            self._idle[gpu] = None
        elif isinstance(action, LoadWeights) and isinstance(result, ErrorResult):
            sent = [entry[2] for entry in self._queue if entry[2].model.name == action.model]
            self._drop(sent)
        if isinstance(result, ErrorResult):
            commands += [failure(request, result) for request in sent if not request.over]
        return commands + self._advance(now)

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Command]:
        """It no longer waits."""
        self._drop([request])
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Command]:
        """More devices."""
        for gpu in worker.gpus:
            self._devices[gpu] = {}
            self._idle[gpu] = None
        return self._advance(now)

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Command]:
        """What was out there is queued again."""
        commands: list[Command] = []
        for gpu in worker.gpus:
            self._idle.pop(gpu, None)
            for batch in self._devices.pop(gpu).values():
                for request in batch:
                    if not request.over:
                        commands += self.infer(now, request)
        return commands

    def _drop(self, requests: list[PendingRequest]) -> None:
        for request in requests:
            place = bisect_left(self._queue, (request.deadline, request.id), key=lambda entry: entry[:2])
            if place < len(self._queue) and self._queue[place][2] is request:
                del self._queue[place]

    def _advance(self, now: Nanos) -> list[Command]:
        commands = self._drop_late(now)
        for gpu in list(self._idle):
            commands += self._next(now, gpu)
        return commands + self._load(now)

    def _drop_late(self, now: Nanos) -> list[Command]:
        """Answer those at the front that no device can have done in time."""
        commands: list[Command] = []
        while self._queue:
            request = self._queue[0][2]
            done = now + request.model.infer_estimate(request.batch_size) + MARGIN
            if done <= request.deadline:
                break
            del self._queue[0]
            text = f"it would be done {(done - request.deadline) / MILLISECOND:.1f} ms after its deadline"
            predicted = done - request.arrival
            commands.append(Answer(request.id, Status.CONTROLLER_COULD_NOT_START_IN_TIME, text, predicted=predicted))
        return commands

    def _next(self, now: Nanos, gpu: GPUState) -> list[Command]:
        """Send an idle device its next batch."""
        for _, _, first in self._queue[:LOOKED_AT]:
            model = first.model
            if gpu.residency(model.name) is not Residency.WARM:
                continue
            same = [entry[2] for entry in self._queue if entry[2].model is model]
            most = model.max_batch_size if model.info.batchable else 1
            batch = batch_from(same, most)
            while len(batch) > 1 and now + self._time(gpu, batch) + MARGIN > first.deadline:
                batch.pop()
            expected = self._time(gpu, batch)
            self._drop(batch)
            send = gpu.infer(model, batch, now, first.deadline, expected)
            self._devices[gpu][send.action.id] = batch
            del self._idle[gpu]
            return [send]
        return []

    def _time(self, gpu: GPUState, batch: list[PendingRequest]) -> Nanos:
        return batch[0].model.infer_estimate(sum(request.batch_size for request in batch), gpu.kind)

    def _load(self, now: Nanos) -> list[Command]:
        """Load the most urgent model that is nowhere, where nothing is being loaded."""
        for _, _, request in self._queue[:LOOKED_AT]:
            name = request.model.name
            if any(gpu.residency(name) is not Residency.COLD for gpu in self._devices):
                continue
            able = [gpu for gpu in self._devices if gpu.can_hold(name) and not _loading(gpu)]
            for gpu in sorted(able, key=lambda gpu: len(gpu.outstanding)):
                commands = load_evicting_lru(gpu, request.model)
                if commands:
                    return commands
        return []


def _loading(gpu: GPUState) -> bool:
    return any(isinstance(action, LoadWeights) for action in gpu.outstanding.values())
