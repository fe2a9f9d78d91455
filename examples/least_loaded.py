"""A scheduler of your own, complete: each request goes to the device that has the fewest on its hands.

    PYTHONPATH=examples clockwork serve --scheduler least_loaded:LeastLoaded model.onnx

`clockwork.scheduling.base` has the rules. In short: every method returns what to do; a `GPUState` knows what is where
and makes the actions; a request whose Infer succeeds is answered by the controller.
"""

from collections import deque

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, Residency, WorkerState
from clockwork.units import Nanos


class LeastLoaded(Scheduler):
    """Loads a model where its request is, and evicts what was not used for longest."""

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        self.queues: dict[GPUState, deque[PendingRequest]] = {gpu: deque() for gpu in state.gpus()}
        self.sent: dict[int, PendingRequest] = {}  # by the id of the Infer
        return super().start(now, state)

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        able = [gpu for gpu in self.queues if gpu.can_hold(request.model.name)]
        if not able:
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, f"no device can hold {request.model.name}")]
        gpu = min(able, key=lambda gpu: len(self.queues[gpu]) + len(gpu.outstanding))
        self.queues[gpu].append(request)
        self.advance(now, gpu)
        return []

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        failed = self.sent.pop(action.id, None)  # the controller has answered it, unless there was an error
        queue = self.queues[gpu]
        if isinstance(action, LoadWeights) and queue and queue[0].model.name == action.model:
            failed = queue.popleft() if isinstance(result, ErrorResult) else None
        self.advance(now, gpu)
        if failed is None or failed.over or not isinstance(result, ErrorResult):
            return []
        return [Answer(failed.id, Status.ERROR, result.message)]

    def advance(self, now: Nanos, gpu: GPUState) -> None:
        """Send from the head of the device's queue for as long as the weights are there; else load them."""
        queue = self.queues[gpu]
        while queue:
            request = queue[0]
            residency = gpu.residency(request.model.name)
            if residency is not Residency.WARM and not request.over:
                if residency is Residency.COLD:
                    self.load(gpu, request.model)
                return
            queue.popleft()
            if not request.over:  # answered at its deadline, or cancelled
                expected = request.model.infer_estimate(request.batch_size, gpu.kind)
                infer = gpu.infer(request.model, [request], now, request.deadline, expected)
                self.sent[infer.id] = request

    def load(self, gpu: GPUState, model: ModelState) -> None:
        """Make room and load; nothing yet, if what is in use leaves too little."""
        pages = gpu.models[model.name].weights_pages
        idle = [name for name in gpu.cache if not gpu.in_use(name)]  # least recently used first
        if pages > gpu.cache.free + sum(gpu.cache.pages_of(name) for name in idle):
            return
        while gpu.cache.free < pages:
            gpu.evict_weights(idle.pop(0))
        gpu.load_weights(model, expected=model.load_estimate(gpu.kind))

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        self.queues.update({gpu: deque() for gpu in worker.gpus})
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        homeless: list[PendingRequest] = []
        for gpu in worker.gpus:
            homeless += [self.sent.pop(action) for action in gpu.outstanding if action in self.sent]
            homeless += self.queues.pop(gpu)
        return [answer for request in homeless if not request.over for answer in self.infer(now, request)]
