"""Which requests can be in one batch: all inputs of an Infer agree in every dimension but the first."""

from clockwork.state import PendingRequest

ShapeKey = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes, without the batch dimension, of inputs that may differ from request to request."""


def shape_key(request: PendingRequest) -> ShapeKey:
    """Equal for requests of one model that can be batched; empty where the model leaves no choice."""
    info = request.model.info
    if not request.model.flexible:
        return ()
    first = 1 if info.batchable else 0
    return tuple((tensor.name, tensor.shape[first:]) for tensor in request.input.tensors)
