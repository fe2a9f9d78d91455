"""Executes requests in batches, first in, first out, like a server without deadlines.

Each device has a queue. A request joins the shortest queue of the devices that have its model. If no device has the
model, the request joins the shortest of the queues of `CHOICES` devices. A device executes the first request of its
queue, together with later requests that fit into one batch. The scheduler refuses no late requests. Instead, the worker
drops a batch that cannot start by its deadline, and the controller answers a request at its deadline.
"""

from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import DeviceAction, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.common import NO_DEVICE, batch_from, failed_answer, load_evicting_lru, rows_of
from clockwork.scheduling.queues import Waiting
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, Residency, WorkerState
from clockwork.units import Nanos

MAX_OUTSTANDING: Final = 2
"""Limit of outstanding Infers on one device. One Infer runs, and one waits."""

CHOICES: Final = 8
"""Number of devices that are considered for a request if no device has its model."""


class _Device:
    def __init__(self, gpu: GPUState) -> None:
        self.gpu = gpu
        self.waiting = Waiting()
        self.sent: dict[int, list[PendingRequest]] = {}  #: action id -> the batch


@mypyc_attr(allow_interpreted_subclasses=True)
class FifoScheduler(Scheduler):
    """Executes requests in batches, first in, first out; see the module's docstring."""

    name: ClassVar[str] = "fifo"

    def __init__(self) -> None:
        """Create a scheduler without devices."""
        self._devices: dict[GPUState, _Device] = {}
        self._order: list[_Device] = []
        self._turn = 0
        self._device_of: dict[int, _Device] = {}  #: request id -> the device that has the request in its queue

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Begin to use all devices."""
        super().start(now, state)
        self._add(list(state.gpus()))
        return []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Queue the request at a device."""
        device = self._choose(request.model)
        if device is None:
            text = NO_DEVICE.format(model=request.model.served_as)
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, text, reason=RefusalReason.NO_DEVICE)]
        device.waiting.add(request)
        self._device_of[request.id] = device
        self._send_next(now, device)
        return []

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Answer requests that failed. Then send the device its next batch."""
        device = self._devices[gpu]
        failed: list[PendingRequest] = []
        if isinstance(action, Infer):
            failed = device.sent.pop(action.id, [])
        elif isinstance(action, LoadWeights) and isinstance(result, ErrorResult):
            failed = [request for request in device.waiting if request.model.name == action.model]
            for request in failed:
                self._forget(request)
        self._send_next(now, device)
        if not isinstance(result, ErrorResult):
            return []
        return [failed_answer(request, result) for request in failed if not request.over]

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Remove the request from its queue."""
        self._forget(request)
        return []

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Do nothing, because a model is loaded when it is requested."""
        return []

    def model_removed(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Do nothing, because nothing is stored about a model without requests."""
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Begin to use the worker's devices."""
        self._add(worker.gpus)
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Queue the requests of the lost worker at other devices.

        Requests that were already sent to the worker come first.
        """
        lost: list[PendingRequest] = []
        for gpu in worker.gpus:
            device = self._devices.pop(gpu)
            self._order.remove(device)
            lost += [request for batch in device.sent.values() for request in batch]
            lost += device.waiting
        for request in lost:
            self._device_of.pop(request.id, None)
        return [answer for request in lost if not request.over for answer in self.infer(now, request)]

    def _add(self, gpus: list[GPUState]) -> None:
        for gpu in gpus:
            device = self._devices[gpu] = _Device(gpu)
            self._order.append(device)

    def _forget(self, request: PendingRequest) -> None:
        device = self._device_of.pop(request.id, None)
        if device is not None:
            device.waiting.discard(request)

    def _choose(self, model: ModelState) -> _Device | None:
        gpus = self.state.holders.get(model.name, ())
        holders = [self._devices[gpu] for gpu in gpus if gpu in self._devices and gpu.can_serve(model)]
        if not holders:
            self._turn += 1
            turned = [self._order[(self._turn + i) % len(self._order)] for i in range(min(CHOICES, len(self._order)))]
            holders = [device for device in turned if device.gpu.can_serve(model)]
            holders = holders or [device for device in self._order if device.gpu.can_serve(model)]
        return min(holders, key=lambda device: len(device.waiting) + len(device.gpu.outstanding), default=None)

    def _send_next(self, now: Nanos, device: _Device) -> None:
        gpu = device.gpu
        while device.waiting and len(device.sent) < MAX_OUTSTANDING:
            model = device.waiting.first.model
            residency = gpu.residency(model.name)
            if residency is not Residency.WARM:
                if residency is Residency.COLD:
                    load_evicting_lru(gpu, model)
                return
            batch = batch_from(device.waiting.like_first(), model.max_batch_size)
            for request in batch:
                self._forget(request)
            expected = model.infer_estimate(rows_of(batch), gpu.kind)
            infer = gpu.infer(model, batch, now, max(request.deadline for request in batch), expected)
            device.sent[infer.id] = batch
