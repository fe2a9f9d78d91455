"""A scheduler of your own in 50 lines: each model has a home among the devices, and what is asked is sent at once.

PYTHONPATH=examples clockwork serve --scheduler at_home:AtHome model.onnx
"""

from zlib import crc32

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import GPUState, ModelState, PendingRequest, Residency
from clockwork.units import Nanos


class AtHome(Scheduler):
    """The worker queues, waits for weights on their way, and drops what cannot start by its deadline."""

    def __init__(self) -> None:
        self.open: dict[int, PendingRequest] = {}

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        model = request.model
        homes = [gpu for gpu in self.state.gpus() if gpu.can_hold(model.name)]
        gpu = homes[crc32(model.name.encode()) % len(homes)] if homes else None
        if gpu is None or (gpu.residency(model.name) is Residency.COLD and not self.fits(gpu, model)):
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, f"no room for {model.name} at present")]
        if gpu.residency(model.name) is Residency.COLD:
            while gpu.cache.free < gpu.models[model.name].weights_pages:
                gpu.evict_weights(next(name for name in gpu.cache if not gpu.in_use(name)))
            gpu.load_weights(model)
        gpu.infer(model, [request], earliest=now, latest=request.deadline)
        self.open[request.id] = request
        return []

    def fits(self, gpu: GPUState, model: ModelState) -> bool:
        used = sum(gpu.cache.pages_of(name) for name in gpu.cache if gpu.in_use(name))
        return used + gpu.models[model.name].weights_pages <= gpu.cache.total

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        ended = [self.open.pop(it.request_id, None) for it in action.inputs] if isinstance(action, Infer) else []
        if not isinstance(result, ErrorResult):
            return []  # the controller has answered them
        return [Answer(it.id, Status.ERROR, result.message) for it in ended if it is not None and not it.over]

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.open.pop(request.id, None)
        return []
