"""First in, first out, one request at a time; models are loaded where they are asked for.

A model that is on several devices is served by them in turn. One that is on none is loaded on the next device in turn.
A device that is full evicts its least recently used model. At most `OUTSTANDING` requests are out at a device, enough
to hide the network from it. Nobody is refused for being late: the worker drops what cannot start by its deadline.
"""

from collections import OrderedDict
from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.common import NO_DEVICE, failure, load_evicting_lru
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, Residency, WorkerState
from clockwork.units import Nanos

OUTSTANDING: Final = 3
"""Requests sent to one device and not yet answered by it."""


class _Device:
    """A device's queue: waiting first in first out, and those sent."""

    def __init__(self, gpu: GPUState) -> None:
        self.gpu = gpu
        self.waiting: OrderedDict[int, PendingRequest] = OrderedDict()  #: by request id
        self.sent: dict[int, PendingRequest] = {}  #: by action id


@mypyc_attr(allow_interpreted_subclasses=True)
class SimpleScheduler(Scheduler):
    """See the module."""

    name: ClassVar[str] = "simple"

    def __init__(self) -> None:
        """No device yet."""
        self._devices: dict[GPUState, _Device] = {}
        self._next_device = -1
        self._next_holder: dict[str, int] = {}
        self._device_of: dict[int, _Device] = {}  #: request id -> where it waits

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        """Take all devices into service."""
        super().start(now, state)
        self._devices = {gpu: _Device(gpu) for gpu in state.gpus()}
        return []

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Queue the request at a device."""
        device = self._choose(request.model)
        if device is None:
            message = NO_DEVICE.format(model=request.model.name)
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, message)]
        device.waiting[request.id] = request
        self._device_of[request.id] = device
        self._pump(now, device)
        return []

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        """Answer what failed; then the device has room for more."""
        device = self._devices[gpu]
        answers: list[Answer] = []
        if isinstance(action, Infer):
            request = device.sent.pop(action.id, None)
            if request is not None and not request.over and isinstance(result, ErrorResult):
                answers.append(failure(request, result))
        elif isinstance(action, LoadWeights) and isinstance(result, ErrorResult):
            first = next((request for request in device.waiting.values() if not request.over), None)
            if first is not None and first.model.name == action.model:
                self._forget(first)
                answers.append(failure(first, result))
        self._pump(now, device)
        return answers

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """It no longer waits."""
        self._forget(request)
        return []

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """More devices."""
        for gpu in worker.gpus:
            self._devices[gpu] = _Device(gpu)
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        """What was there goes elsewhere, the requests that were out first."""
        homeless: list[PendingRequest] = []
        for gpu in worker.gpus:
            device = self._devices.pop(gpu)
            homeless += device.sent.values()
            homeless += device.waiting.values()
            for request in device.waiting.values():
                self._device_of.pop(request.id, None)
        return [answer for request in homeless if not request.over for answer in self.infer(now, request)]

    def _forget(self, request: PendingRequest) -> None:
        device = self._device_of.pop(request.id, None)
        if device is not None:
            device.waiting.pop(request.id, None)

    def _choose(self, model: ModelState) -> _Device | None:
        able = [device for gpu, device in self._devices.items() if gpu.can_hold(model.name)]
        if not able:
            return None
        holders = [d for d in able if d.gpu.residency(model.name) is not Residency.COLD]
        if not holders:
            self._next_device += 1
            return able[self._next_device % len(able)]
        turn = self._next_holder[model.name] = self._next_holder.get(model.name, -1) + 1
        return holders[turn % len(holders)]

    def _pump(self, now: Nanos, device: _Device) -> None:
        """Send what can be sent."""
        gpu = device.gpu
        while device.waiting and len(device.sent) < OUTSTANDING:
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
