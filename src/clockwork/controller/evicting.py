"""Evicts a model's weights when an operator requests it."""

from clockwork.messages.status import Status
from clockwork.state import ClockworkState, GPUState, ModelState, Residency


def evict_everywhere(state: ClockworkState, model: ModelState) -> tuple[list[GPUState], Status, str]:
    """Evict a model's weights from the devices on which no outstanding action needs them.

    Return these devices, and the status and message for the operator.
    """
    busy = [str(gpu) for gpu in state.gpus() if gpu.in_use(model.name)]
    warm = [gpu for gpu in state.gpus() if gpu.residency(model.name) is Residency.WARM]
    free = [gpu for gpu in warm if not gpu.in_use(model.name)]
    for gpu in free:
        gpu.evict_weights(model.name)
    if busy:
        return free, Status.WEIGHTS_IN_USE, f"{model.served_as} is in use on {', '.join(busy)}; retry later"
    return free, Status.SUCCESS, ""
