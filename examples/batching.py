"""A complete scheduler that batches, and refuses a request at its arrival if it would be late.

    PYTHONPATH=examples clockwork serve --scheduler batching:Batching model.onnx

`examples/least_loaded.py` is a simpler scheduler with queues. This scheduler adds three decisions, which use the
measured times of the models:

- A request goes to the device that can complete it first. Weights that must be loaded first count as work.
- A request that would miss its deadline on this device is refused at once, so that its client can go elsewhere.
- Requests for one model are executed together, as long as the first of them is in time.
"""

from collections import deque

from clockwork.scheduling import (
    MILLISECOND,
    Answer,
    ClockworkState,
    DeviceAction,
    ErrorResult,
    GPUState,
    LoadWeights,
    ModelState,
    Nanos,
    PendingRequest,
    Residency,
    Result,
    Scheduler,
    Status,
    WorkerState,
    batch_from,
    failed_answer,
    load_evicting_lru,
    rows_of,
)

MARGIN: Nanos = 2 * MILLISECOND  # for the network, and for batches that take longer than usual
AHEAD = 2  # batches sent to a device: one executes, and the next one waits on the worker


class Batching(Scheduler):
    """Executes requests in the order of their arrival, in batches."""

    def start(self, now: Nanos, state: ClockworkState) -> list[Answer]:
        self.queues: dict[GPUState, deque[PendingRequest]] = {gpu: deque() for gpu in state.gpus()}
        self.sent: dict[int, list[PendingRequest]] = {}  # the key is the id of the Infer action
        return super().start(now, state)

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        able = [gpu for gpu in self.queues if gpu.can_hold(request.model.name)]
        if not able:
            return [Answer(request.id, Status.SKIPPED_BY_CONTROLLER, f"no device can hold {request.model.name}")]
        work, gpu = min(((self.work(gpu, request), gpu) for gpu in able), key=lambda pair: pair[0])
        if now + work + MARGIN > request.deadline:
            return [late(now, request, work + MARGIN)]
        self.queues[gpu].append(request)
        return self.advance(now, gpu)

    def work(self, gpu: GPUState, request: PendingRequest) -> Nanos:
        """Return how long the device needs for its work and the request."""
        waiting: dict[ModelState, int] = {}
        for queued in (*self.queues[gpu], request):
            waiting[queued.model] = waiting.get(queued.model, 0) + queued.batch_size
        total = sum(self.batch_time(gpu, self.sent[action]) for action in gpu.outstanding if action in self.sent)
        for model, rows in waiting.items():
            batches = -(-rows // model.max_batch_size)  # rounded up
            total += batches * model.infer_estimate(min(rows, model.max_batch_size), gpu.kind)
            if gpu.residency(model.name) is not Residency.WARM:
                total += model.load_estimate(gpu.kind)
        return total

    def batch_time(self, gpu: GPUState, batch: list[PendingRequest]) -> Nanos:
        return batch[0].model.infer_estimate(rows_of(batch), gpu.kind)

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        ended = self.sent.pop(action.id, [])
        if isinstance(action, LoadWeights) and isinstance(result, ErrorResult):
            ended = [request for request in self.queues[gpu] if request.model.name == action.model]
            self.remove(gpu, ended)
        answers = self.advance(now, gpu)
        if isinstance(result, ErrorResult):  # after a success, the controller answers the requests
            answers += [failed_answer(request, result) for request in ended if not request.over]
        return answers

    def advance(self, now: Nanos, gpu: GPUState) -> list[Answer]:
        """Send batches to the device until it has enough work; load the weights that the next batch needs."""
        answers: list[Answer] = []
        while sum(action in self.sent for action in gpu.outstanding) < AHEAD:
            self.remove(gpu, [request for request in self.queues[gpu] if request.over])
            if not self.queues[gpu]:
                break
            first = self.queues[gpu][0]
            residency = gpu.residency(first.model.name)
            if residency is not Residency.WARM:
                if residency is Residency.COLD:
                    load_evicting_lru(gpu, first.model)
                break
            batch = batch_from(self.queues[gpu], first.model.max_batch_size)
            while len(batch) > 1 and now + self.batch_time(gpu, batch) > first.deadline:
                batch.pop()
            self.remove(gpu, batch)
            expected = self.batch_time(gpu, batch)
            if now + expected > first.deadline:
                answers.append(late(now, first, expected))
                continue
            infer = gpu.infer(first.model, batch, now, first.deadline - expected, expected)
            self.sent[infer.id] = batch
        return answers

    def remove(self, gpu: GPUState, requests: list[PendingRequest]) -> None:
        if requests:
            gone = {request.id for request in requests}
            self.queues[gpu] = deque(request for request in self.queues[gpu] if request.id not in gone)

    def worker_joined(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        self.queues.update({gpu: deque() for gpu in worker.gpus})
        return []

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[Answer]:
        waiting: list[PendingRequest] = []
        for gpu in worker.gpus:
            for action in [action for action in gpu.outstanding if action in self.sent]:
                waiting += self.sent.pop(action)
            waiting += self.queues.pop(gpu)
        return [answer for request in waiting if not request.over for answer in self.infer(now, request)]


def late(now: Nanos, request: PendingRequest, needed: Nanos) -> Answer:
    """Return the refusal of a request that would complete ``needed`` nanoseconds from now, after its deadline."""
    text = f"predicted completion is {(now + needed - request.deadline) / MILLISECOND:.1f} ms past the deadline"
    return Answer(request.id, Status.CONTROLLER_COULD_NOT_START_IN_TIME, text, predicted=now + needed - request.arrival)
