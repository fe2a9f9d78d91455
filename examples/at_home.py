"""A complete scheduler in 45 lines. Each model has one device. A request is sent to the device of its model at once.

PYTHONPATH=examples clockwork serve --scheduler at_home:AtHome model.onnx
"""

from zlib import crc32

from clockwork.scheduling import (
    Answer,
    DeviceAction,
    ErrorResult,
    GPUState,
    Infer,
    ModelState,
    Nanos,
    PendingRequest,
    Residency,
    Result,
    Scheduler,
    Status,
    failed_answer,
)


class AtHome(Scheduler):
    """A scheduler that plans nothing.

    The worker queues the Infer actions, waits until weights are loaded, and drops actions that cannot start in time.
    """

    def __init__(self) -> None:
        self.pending: dict[int, PendingRequest] = {}

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        model = request.model
        able = [gpu for gpu in self.state.gpus() if gpu.can_hold(model.name)]
        gpu = able[crc32(model.name.encode()) % len(able)] if able else None
        if gpu is None or (gpu.residency(model.name) is Residency.COLD and not self.fits(gpu, model)):
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, f"no device has memory for {model.name} now")]
        if gpu.residency(model.name) is Residency.COLD:
            while gpu.cache.free < gpu.models[model.name].weights_pages:
                gpu.evict_weights(next(name for name in gpu.cache if not gpu.in_use(name)))
            gpu.load_weights(model)
        expected = model.infer_estimate(request.batch_size, gpu.kind)
        gpu.infer(model, [request], earliest=now, latest=max(now, request.deadline - expected), expected=expected)
        self.pending[request.id] = request
        return []

    def fits(self, gpu: GPUState, model: ModelState) -> bool:
        used = sum(gpu.cache.pages_of(name) for name in gpu.cache if gpu.in_use(name))
        return used + gpu.models[model.name].weights_pages <= gpu.cache.total

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        ids = [share.request_id for share in action.inputs] if isinstance(action, Infer) else []
        ended = [self.pending.pop(request_id) for request_id in ids if request_id in self.pending]
        if not isinstance(result, ErrorResult):
            return []  # the controller has answered these requests
        return [failed_answer(request, result) for request in ended if not request.over]

    def cancel(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        self.pending.pop(request.id, None)
        return []
