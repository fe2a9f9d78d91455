"""Executes the request with the earliest deadline first, and drops requests that can no longer be in time.

There is one queue for all devices, in order of deadlines. An idle device gets the most urgent of the requests whose
model is on the device. If no device has the weights, they are loaded on a device with free memory. Further requests for
the same model are added to the batch as long as its most urgent request can still be in time. As soon as a request can
no longer be in time according to the measured times, the request is refused.
"""

from heapq import heappop, heappush
from itertools import islice
from typing import ClassVar, Final, TypeAlias

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import DeviceAction, Infer, LoadWeights
from clockwork.messages.commands import NO_RETRY, Answer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.common import NO_DEVICE, batch_from, failed_answer, load_evicting_lru, rows_of
from clockwork.scheduling.queues import Ordered
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, WorkerState
from clockwork.units import MILLISECOND, Nanos, show_duration

MARGIN: Final[Nanos] = 1 * MILLISECOND
"""Time reserved for the network delay to the worker and back."""

MAX_CONSIDERED: Final = 64
"""Number of urgent requests that the scheduler considers when it looks for a request to execute or a model to load.
"""

MAX_SEARCHED: Final = 1024
"""Limit of the requests that are searched for requests that can share a batch with an urgent request."""

_Entry: TypeAlias = tuple[Nanos, int, PendingRequest]


@mypyc_attr(allow_interpreted_subclasses=True)
class EdfScheduler(Scheduler):
    """Executes the request with the earliest deadline first, and drops late requests; see the module's docstring."""

    name: ClassVar[str] = "edf"

    def __init__(self) -> None:
        """Create a scheduler without devices."""
        self._devices: dict[GPUState, list[PendingRequest]] = {}  #: device -> the batch that it executes
        self._idle: dict[GPUState, None] = {}
        self._loading: dict[str, GPUState] = {}  #: model -> device; a device loads at most one model at a time
        self._queue: Ordered[_Entry] = Ordered()  #: the requests by deadline
        self._starts: list[_Entry] = []  #: heap by latest start; includes requests that have left the queue
        self._last_start: dict[int, Nanos] = {}  #: request id -> latest start at which the request can still be in time

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Begin to use all devices."""
        super().start(now, state)
        self._devices = {gpu: [] for gpu in state.gpus()}
        self._idle = dict.fromkeys(self._devices)
        return []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Queue the request by its deadline."""
        if not any(gpu.can_serve(request.model) for gpu in self._devices):
            text = NO_DEVICE.format(model=request.model.served_as)
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, text, reason=RefusalReason.NO_DEVICE)]
        self._add(request)
        return self._advance(now)

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Answer requests that failed. Then send the device its next batch."""
        ended: list[PendingRequest] = []
        if isinstance(action, Infer):
            ended, self._devices[gpu] = self._devices[gpu], []
            self._idle[gpu] = None
        elif isinstance(action, LoadWeights):
            self._loading.pop(action.model, None)
            if isinstance(result, ErrorResult):
                ended = [request for _, _, request in self._queue if request.model.name == action.model]
                self._remove(ended)
        answers: list[Answer] = []
        if isinstance(result, ErrorResult):
            answers = [failed_answer(request, result) for request in ended if not request.over]
        return answers + self._advance(now)

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Remove the request from the queue."""
        self._remove([request])
        return []

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Do nothing, because a model is loaded when it is requested."""
        return []

    def model_removed(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Do nothing, because the scheduler stores nothing about a model without requests."""
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Begin to use the worker's devices."""
        for gpu in worker.gpus:
            self._devices[gpu] = []
            self._idle[gpu] = None
        return self._advance(now)

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Queue again the requests that were sent to the worker."""
        self._loading = {model: gpu for model, gpu in self._loading.items() if gpu.worker_id != worker.id}
        lost: list[PendingRequest] = []
        for gpu in worker.gpus:
            self._idle.pop(gpu, None)
            lost += self._devices.pop(gpu)
        for request in lost:
            if not request.over:
                self._add(request)
        return self._advance(now)

    def wake(self, now: Nanos) -> list[Answer]:
        """Refuse the requests that can no longer be in time."""
        return self._advance(now)

    def next_wakeup(self) -> Nanos | None:
        """Return the time at which the next request can no longer be in time."""
        self._tidy_starts()
        return self._starts[0][0] + 1 if self._starts else None

    def _add(self, request: PendingRequest) -> None:
        last_start = request.deadline - MARGIN - request.model.infer_estimate(request.batch_size)
        self._last_start[request.id] = last_start
        self._queue.add((request.deadline, request.id, request))
        heappush(self._starts, (last_start, request.id, request))

    def _remove(self, requests: list[PendingRequest]) -> None:
        for request in requests:
            if self._last_start.pop(request.id, None) is not None:
                self._queue.remove((request.deadline, request.id, request))

    def _tidy_starts(self) -> None:
        """Remove entries of requests that are no longer in the queue.

        Normally, only entries at the front are removed. If such entries are the majority, all of them are removed.
        """
        while self._starts and self._starts[0][1] not in self._last_start:
            heappop(self._starts)
        if len(self._starts) > 2 * len(self._last_start) + MAX_SEARCHED:
            self._starts = sorted(entry for entry in self._starts if entry[1] in self._last_start)

    def _advance(self, now: Nanos) -> list[Answer]:
        answers = self._drop_late(now)
        for _, _, request in list(islice(self._queue, MAX_CONSIDERED)) if self._idle else ():
            if not self._idle:
                break
            if request.id in self._last_start:  # the request may have been sent in the batch of an earlier request
                self._send(now, request)
        self._load()
        return answers

    def _drop_late(self, now: Nanos) -> list[Answer]:
        """Refuse the requests that no device can execute in time."""
        answers: list[Answer] = []
        self._tidy_starts()
        while self._starts and self._starts[0][0] < now:
            late, _, request = heappop(self._starts)
            if request.id not in self._last_start:
                continue
            self._remove([request])
            text = f"predicted completion is {show_duration(now - late)} past the deadline"
            predicted = now - late + request.deadline - request.arrival
            reason = RefusalReason.DEVICE_TOO_SLOW if late < request.arrival else RefusalReason.DEVICE_BUSY
            answers.append(
                Answer(
                    request.id,
                    Status.CONTROLLER_COULD_NOT_START_IN_TIME,
                    text,
                    predicted=predicted,
                    retry_after=NO_RETRY if reason is RefusalReason.DEVICE_TOO_SLOW else None,
                    reason=reason,
                )
            )
        return answers

    def _send(self, now: Nanos, first: PendingRequest) -> None:
        """Send the request, with other requests that fit, to an idle device that has the weights and is fast enough."""
        model, slack = first.model, first.deadline - MARGIN - now
        for gpu in self.state.holders.get(model.name, ()):
            if gpu in self._idle and gpu.can_serve(model) and model.infer_estimate(first.batch_size, gpu.kind) <= slack:
                waiting = self._queue.since((first.deadline, first.id, first), MAX_SEARCHED)
                batch = batch_from((request for _, _, request in waiting), model.max_batch_size)
                while (expected := model.infer_estimate(rows_of(batch), gpu.kind)) > slack:
                    batch.pop()
                self._remove(batch)
                self._devices[gpu] = batch
                del self._idle[gpu]
                gpu.infer(model, batch, now, first.deadline, expected)
                return

    def _load(self) -> None:
        """Load the most urgent model that is on no device. The device must not be loading another model."""
        busy = dict.fromkeys(self._loading.values())
        seen: dict[str, None] = {}
        for _, _, request in islice(self._queue, MAX_CONSIDERED):
            name = request.model.name
            if name in seen:
                continue
            seen[name] = None
            if name in self._loading or any(gpu in self._devices for gpu in self.state.holders.get(name, ())):
                continue
            able = [gpu for gpu in self._devices if gpu not in busy and gpu.can_serve(request.model)]
            for gpu in sorted(able, key=lambda gpu: len(gpu.outstanding)):
                if load_evicting_lru(gpu, request.model):
                    self._loading[name] = gpu
                    return
