"""Decides which requests can share a batch.

Two requests can share a batch if their inputs have the same size in every dimension except the first.
"""

from clockwork.messages.actions import InferInput
from clockwork.state import ModelState, PendingRequest

ShapeKey = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of a request's inputs, without the batch dimension. The key is empty if the model allows only one
shape.
"""


def shape_key(request: PendingRequest) -> ShapeKey:
    """Return a key that is equal for requests of one model that can share a batch."""
    return shape_key_of(request.model, request.input) if request.model.flexible else ()


def is_alone(model: ModelState, key: ShapeKey) -> bool:
    """Return whether a request with this key must be executed alone, because the model has optional inputs."""
    return bool(model.optional) and any(name in model.optional for name, _ in key)


def shape_key_of(model: ModelState, share: InferInput) -> ShapeKey:
    """Return the key of the inputs that one request contributes to an Infer."""
    if not model.flexible:
        return ()
    first = 1 if model.info.batchable else 0
    return tuple((tensor.name, tensor.shape[first:]) for tensor in share.tensors)
