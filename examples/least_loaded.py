"""A complete scheduler with queues. The scheduler sends each request to the device that has the fewest requests.

    PYTHONPATH=examples clockwork serve --scheduler least_loaded:LeastLoaded model.onnx

`clockwork.scheduling.base` describes the interface of schedulers. A `GPUState` contains the weights that are on a
device, and creates the actions for the device. The scheduler's methods return its answers to requests. If an Infer
action succeeds, the controller answers its requests.
"""

from collections import deque

from clockwork.scheduling import (
    Answer,
    ClockworkState,
    DeviceAction,
    ErrorResult,
    GPUState,
    LoadWeights,
    Nanos,
    PendingRequest,
    Residency,
    Result,
    Scheduler,
    Status,
    WorkerState,
    failed_answer,
    load_evicting_lru,
)


class LeastLoaded(Scheduler):
    """Sends each request to the least loaded device.

    If the cache is full, the scheduler evicts the least recently used weights.
    """

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        self.queues: dict[GPUState, deque[PendingRequest]] = {gpu: deque() for gpu in state.gpus()}
        self.sent: dict[int, PendingRequest] = {}  # the key is the id of the Infer action
        return super().start(now, state)

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        able = [gpu for gpu in self.queues if gpu.can_hold(request.model.name)]
        if not able:
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, f"no device can hold {request.model.name}")]
        gpu = min(able, key=lambda gpu: len(self.queues[gpu]) + len(gpu.outstanding))
        self.queues[gpu].append(request)
        self.advance(now, gpu)
        return []

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        failed = self.sent.pop(action.id, None)  # if the Infer succeeded, the controller has answered it
        queue = self.queues[gpu]
        if isinstance(action, LoadWeights) and queue and queue[0].model.name == action.model:
            failed = queue.popleft() if isinstance(result, ErrorResult) else None
        self.advance(now, gpu)
        if failed is None or failed.over or not isinstance(result, ErrorResult):
            return []
        return [failed_answer(failed, result)]

    def advance(self, now: Nanos, gpu: GPUState) -> None:
        """Send requests from the head of the device's queue, and load the weights that the next request needs."""
        queue = self.queues[gpu]
        while queue:
            request = queue[0]
            residency = gpu.residency(request.model.name)
            if residency is not Residency.WARM and not request.over:
                if residency is Residency.COLD:
                    load_evicting_lru(gpu, request.model)
                return
            queue.popleft()
            if not request.over:  # other requests were cancelled, or were answered at their deadline
                expected = request.model.infer_estimate(request.batch_size, gpu.kind)
                latest = max(now, request.deadline - expected)  # a later start would miss the deadline
                infer = gpu.infer(request.model, [request], now, latest, expected)
                self.sent[infer.id] = request

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        self.queues.update({gpu: deque() for gpu in worker.gpus})
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        waiting: list[PendingRequest] = []
        for gpu in worker.gpus:
            waiting += [self.sent.pop(action) for action in gpu.outstanding if action in self.sent]
            waiting += self.queues.pop(gpu)
        return [answer for request in waiting if not request.over for answer in self.infer(now, request)]
