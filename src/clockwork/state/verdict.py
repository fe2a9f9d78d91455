"""Defines what a scheduler based its decision about a request on."""

from msgspec import Struct

from clockwork.units import Nanos


class Verdict(Struct, frozen=True, gc=False, array_like=True):
    """The parts of a decision. All times are absolute, except durations.

    - ``at``: time of the decision
    - ``device``: the device's label
    - ``start``, ``end``: the planned begin and end of the request's batch
    - ``ready``: when the weights will be loaded; 0 if they are on the device
    - ``send_delay``, ``return_delay``: estimated delays of an action on its way to the worker, and of its result
    - ``margin``: time that must be left between the predicted completion and the deadline
    - ``sent``, ``planned``: number of Infers that were sent to the device and have not ended, and of planned batches
    - ``joined``: whether the request joined a planned batch
    - ``ahead``: the number of these Infers and batches by model, for a refused request
    - ``free``: when the device would have been free for the batch; 0 unless the batch had to wait for its weights
    - ``kept``: the scheduler's own state, from which it computes counterfactuals; None if no state was kept
    """

    at: Nanos
    device: str
    start: Nanos
    end: Nanos
    ready: Nanos
    send_delay: Nanos
    return_delay: Nanos
    margin: Nanos
    sent: int
    planned: int
    joined: bool = False
    ahead: tuple[tuple[str, int], ...] = ()
    kept: object = None
    free: Nanos = 0
