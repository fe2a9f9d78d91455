"""Executes one request at a time, first in, first out. A model is loaded when it is requested.

If several devices have a model, they serve its requests in turn. If no device has a model, the next device in turn
loads the model. A device without free memory evicts its least recently used model. At most `MAX_OUTSTANDING` requests
are sent to a device at a time. This number is enough to hide the network delay. The scheduler refuses no late requests.
Instead, the worker drops an Infer that cannot start by its deadline.
"""

from collections import OrderedDict
from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import DeviceAction, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.common import NO_DEVICE, failed_answer, load_evicting_lru
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, Residency, WorkerState
from clockwork.units import Nanos

MAX_OUTSTANDING: Final = 3
"""Limit of outstanding Infers on one device."""


class _Device:
    """The queue of one device, and the requests that were sent to it."""

    def __init__(self, gpu: GPUState) -> None:
        self.gpu = gpu
        self.waiting: OrderedDict[int, PendingRequest] = OrderedDict()  #: requests by id
        self.sent: dict[int, PendingRequest] = {}  #: action id -> request


@mypyc_attr(allow_interpreted_subclasses=True)
class SimpleScheduler(Scheduler):
    """Executes one request at a time, first in, first out; see the module's docstring."""

    name: ClassVar[str] = "simple"

    def __init__(self) -> None:
        """Create a scheduler without devices."""
        self._devices: dict[GPUState, _Device] = {}
        self._next_device = -1
        self._next_holder: dict[str, int] = {}
        self._device_of: dict[int, _Device] = {}  #: request id -> the device that has the request in its queue

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Begin to use all devices."""
        super().start(now, state)
        self._devices = {gpu: _Device(gpu) for gpu in state.gpus()}
        return []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Queue the request at a device."""
        device = self._choose(request.model)
        if device is None:
            message = NO_DEVICE.format(model=request.model.served_as)
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, message, reason=RefusalReason.NO_DEVICE)]
        device.waiting[request.id] = request
        self._device_of[request.id] = device
        self._send_next(now, device)
        return []

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Answer a request that failed. Then send the device its next request."""
        device = self._devices[gpu]
        answers: list[Answer] = []
        if isinstance(action, Infer):
            request = device.sent.pop(action.id, None)
            if request is not None and not request.over and isinstance(result, ErrorResult):
                answers.append(failed_answer(request, result))
        elif isinstance(action, LoadWeights) and isinstance(result, ErrorResult):
            first = next((request for request in device.waiting.values() if not request.over), None)
            if first is not None and first.model.name == action.model:
                self._forget(first)
                answers.append(failed_answer(first, result))
        self._send_next(now, device)
        return answers

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Remove the request from its queue."""
        self._forget(request)
        return []

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Do nothing, because a model is loaded when it is requested."""
        return []

    def model_removed(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Forget which device is the next to serve the model."""
        self._next_holder.pop(model.name, None)
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Begin to use the worker's devices."""
        for gpu in worker.gpus:
            self._devices[gpu] = _Device(gpu)
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """Queue the requests of the lost worker at other devices.

        Requests that were already sent to the worker come first.
        """
        lost: list[PendingRequest] = []
        for gpu in worker.gpus:
            device = self._devices.pop(gpu)
            lost += device.sent.values()
            lost += device.waiting.values()
            for request in device.waiting.values():
                self._device_of.pop(request.id, None)
        return [answer for request in lost if not request.over for answer in self.infer(now, request)]

    def _forget(self, request: PendingRequest) -> None:
        device = self._device_of.pop(request.id, None)
        if device is not None:
            device.waiting.pop(request.id, None)

    def _choose(self, model: ModelState) -> _Device | None:
        able = [device for gpu, device in self._devices.items() if gpu.can_serve(model)]
        if not able:
            return None
        holders = [device for device in able if device.gpu.residency(model.name) is not Residency.COLD]
        if not holders:
            self._next_device += 1
            return able[self._next_device % len(able)]
        turn = self._next_holder[model.name] = self._next_holder.get(model.name, -1) + 1
        return holders[turn % len(holders)]

    def _send_next(self, now: Nanos, device: _Device) -> None:
        """Send requests of the device's queue, and load the weights that the next request needs."""
        gpu = device.gpu
        while device.waiting and len(device.sent) < MAX_OUTSTANDING:
            request = next(iter(device.waiting.values()))
            if request.over:
                self._forget(request)
                continue
            residency = gpu.residency(request.model.name)
            if residency is not Residency.WARM:
                if residency is Residency.COLD:
                    load_evicting_lru(gpu, request.model)
                break
            self._forget(request)
            expected = request.model.infer_estimate(request.batch_size, gpu.kind)
            infer = gpu.infer(request.model, [request], now, request.deadline, expected)
            device.sent[infer.id] = request
