"""Helper functions for scheduling policies."""

from collections.abc import Iterable
from typing import Final

from clockwork.messages.commands import Answer
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.scheduling.shapes import shape_key
from clockwork.state import GPUState, ModelState, PendingRequest

NO_DEVICE: Final = "no device can serve {model} now: a worker is missing or hangs, or the model is too large"
"""Message of a refusal. The controller appends the retry time."""


def load_evicting_lru(gpu: GPUState, model: ModelState) -> bool:
    """Load the model, and evict the least recently used models to make room.

    Return False if models in use occupy too much memory.
    """
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


def failed_answer(request: PendingRequest, result: ErrorResult) -> Answer:
    """Return the answer to a request whose action has failed."""
    if result.status == Status.COULD_NOT_START_IN_TIME:
        text = "the device could not start the request by its deadline"
        return Answer(request.id, Status.CONTROLLER_COULD_NOT_START_IN_TIME, text, reason=RefusalReason.START_MISSED)
    if result.status == Status.INVALID_INPUT:
        return Answer(request.id, Status.INVALID_REQUEST, result.message)
    return Answer(request.id, Status.ERROR, result.message)


def batch_from(requests: Iterable[PendingRequest], max_rows: int) -> list[PendingRequest]:
    """Return the first request, and later requests that fit into the same Infer of at most ``max_rows`` rows.

    All requests must be for the same model and have inputs of the same shape.

    Raises:
        StopIteration: there is no request.
    """
    waiting = iter(requests)
    first = next(waiting)
    batch, rows, key = [first], first.batch_size, shape_key(first)
    if rows >= max_rows or first.model.is_alone(first.input):
        return batch
    for request in waiting:
        if request.model is first.model and rows + request.batch_size <= max_rows and shape_key(request) == key:
            batch.append(request)
            rows += request.batch_size
            if rows >= max_rows:
                break
    return batch


def rows_of(batch: list[PendingRequest]) -> int:
    """Return the number of rows that an Infer of these requests has."""
    return sum(request.batch_size for request in batch)
