"""What several policies do alike. No policy knows another; all may know this."""

from collections.abc import Iterable
from typing import Final

from clockwork.messages.commands import Answer
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.scheduling.shapes import shape_key
from clockwork.state import GPUState, ModelState, PendingRequest

NO_DEVICE: Final = "no device can serve {model} now: a worker is missing or hangs, or the model is too large"
"""Message of a refusal; the controller adds the retry time."""


def load_evicting_lru(gpu: GPUState, model: ModelState) -> bool:
    """Load the model and evict others for it, least recently used first; return False if models in use prevent that."""
    needed = gpu.models[model.name].weights_pages - gpu.cache.free
    victims = []
    for name in gpu.cache:
        if needed <= 0:
            break
        if not gpu.in_use(name):
            victims.append(name)
            needed -= gpu.cache.pages_of(name)
    if needed > 0:
        return False
    for name in victims:
        gpu.evict_weights(name)
    gpu.load_weights(model, expected=model.load_estimate(gpu.kind))
    return True


def failure(request: PendingRequest, result: ErrorResult) -> Answer:
    """The answer to a request whose action has failed."""
    if result.status == Status.COULD_NOT_START_IN_TIME:
        return Answer(request.id, Status.CONTROLLER_COULD_NOT_START_IN_TIME, "it could not be started by its deadline")
    if result.status == Status.INVALID_INPUT:
        return Answer(request.id, Status.INVALID_REQUEST, result.message)
    return Answer(request.id, Status.ERROR, result.message)


def batch_from(requests: Iterable[PendingRequest], most: int) -> list[PendingRequest]:
    """The first request, and those after it that can be in one Infer with it: of its model, of its shape, that fit.

    ``most``: the rows that an Infer may have.

    Raises:
        StopIteration: there is no request.
    """
    waiting = iter(requests)
    first = next(waiting)
    batch, rows, key = [first], first.batch_size, shape_key(first)
    if rows >= most:
        return batch
    for request in waiting:
        if request.model is first.model and rows + request.batch_size <= most and shape_key(request) == key:
            batch.append(request)
            rows += request.batch_size
            if rows >= most:
                break
    return batch


def rows_of(batch: list[PendingRequest]) -> int:
    """The rows of an Infer of these requests."""
    return sum(request.batch_size for request in batch)
