"""A scheduler of your own, complete: each request goes to the device that has the fewest on its hands.

    PYTHONPATH=examples clockwork serve --scheduler least_loaded:LeastLoaded model.onnx

`clockwork.scheduling.base` has the rules. In short: every method returns what to do; a `GPUState` knows what is where
and makes the actions; a request whose Infer succeeds is answered by the controller.
"""

from collections import deque

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer, Command
from clockwork.messages.results import ErrorResult, Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import ClockworkState, GPUState, ModelState, PendingRequest, Residency, WorkerState
from clockwork.units import Nanos


class LeastLoaded(Scheduler):
    """Loads a model where its request is, and evicts what was not used for longest."""

    def start(self, now: Nanos, state: ClockworkState) -> list[Command]:
        self.queues: dict[GPUState, deque[PendingRequest]] = {gpu: deque() for gpu in state.gpus()}
        self.sent: dict[int, PendingRequest] = {}  # by the id of the Infer
        return super().start(now, state)

    def infer(self, now: Nanos, request: PendingRequest) -> list[Command]:
        able = [gpu for gpu in self.queues if gpu.can_hold(request.model.name)]
        if not able:
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, f"no device can hold {request.model.name}")]
        gpu = min(able, key=lambda gpu: len(self.queues[gpu]) + len(gpu.outstanding))
        self.queues[gpu].append(request)
        return self.advance(now, gpu)

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Command]:
        failed = self.sent.pop(action.id, None)  # the controller has answered it, unless there was an error
        queue = self.queues[gpu]
        if isinstance(action, LoadWeights) and queue and queue[0].model.name == action.model:
            failed = queue.popleft() if isinstance(result, ErrorResult) else None
        commands: list[Command] = []
        if failed is not None and not failed.over and isinstance(result, ErrorResult):
            commands.append(Answer(failed.id, Status.ERROR, result.message))
        return commands + self.advance(now, gpu)

    def advance(self, now: Nanos, gpu: GPUState) -> list[Command]:
        """Send from the head of the device's queue for as long as the weights are there; else load them."""
        commands: list[Command] = []
        queue = self.queues[gpu]
        while queue:
            request = queue[0]
            residency = gpu.residency(request.model.name)
            if residency is not Residency.WARM and not request.over:
                return commands + (self.load(gpu, request.model) if residency is Residency.COLD else [])
            queue.popleft()
            if not request.over:  # answered at its deadline, or cancelled
                expected = request.model.infer_estimate(request.batch_size, gpu.kind)
                send = gpu.infer(request.model, [request], now, request.deadline, expected)
                self.sent[send.action.id] = request
                commands.append(send)
        return commands

    def load(self, gpu: GPUState, model: ModelState) -> list[Command]:
        """Make room and load; nothing yet, if what is in use leaves too little."""
        pages = gpu.models[model.name].weights_pages
        idle = [name for name in gpu.cache if not gpu.in_use(name)]  # least recently used first
        if pages > gpu.cache.free + sum(gpu.cache.pages_of(name) for name in idle):
            return []
        evictions: list[Command] = []
        while gpu.cache.free < pages:
            evictions.append(gpu.evict_weights(idle.pop(0)))
        return [*evictions, gpu.load_weights(model, expected=model.load_estimate(gpu.kind))]

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Command]:
        self.queues.update({gpu: deque() for gpu in worker.gpus})
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Command]:
        homeless: list[PendingRequest] = []
        for gpu in worker.gpus:
            homeless += [self.sent.pop(action) for action in gpu.outstanding if action in self.sent]
            homeless += self.queues.pop(gpu)
        return [command for request in homeless if not request.over for command in self.infer(now, request)]
