"""Defines an action that the controller has sent, with its prediction and the times of its execution."""

from typing import Final

from msgspec import Struct

from clockwork.messages.results import ErrorResult, EvictWeightsResult, InferResult, LoadWeightsResult, Result, Timing
from clockwork.units import Nanos

NO_RESULT: Final = -1
"""Status of an action that has no result yet."""


class SentAction(Struct, gc=False, eq=False, array_like=True):
    """An action that was sent to a device at the time ``sent``. The object refers to no tensors, so that it is small.

    ``device`` is the device's label. ``rows`` and ``requests`` are the numbers of rows and requests of an Infer, and 0
    for other actions; ``evicts`` is true for an eviction. ``earliest`` and ``latest`` are the window in which the
    action may start. ``expected`` is the estimate of the duration, and ``expected_begin`` the predicted start. Both are
    0 if there was no prediction. ``ids`` are the public ids of the first requests of an Infer. ``deadlines`` are the
    deadlines of all its requests.

    `end` sets the other fields: ``arrived`` is the time when the result arrived, or 0 if there is none, ``number``
    counts the results, ``status`` is the status of the result, ``timing`` is the execution, ``copy_input`` and
    ``copy_output`` are the other steps of an Infer, and ``error`` is the reason of a failure.
    """

    id: int
    sent: Nanos
    device: str
    model: str
    earliest: Nanos
    latest: Nanos
    expected: Nanos
    expected_begin: Nanos
    rows: int = 0
    requests: int = 0
    evicts: bool = False
    ids: tuple[str, ...] = ()
    deadlines: tuple[Nanos, ...] = ()
    number: int = 0
    arrived: Nanos = 0
    status: int = NO_RESULT
    timing: Timing | None = None
    copy_input: Timing | None = None
    copy_output: Timing | None = None
    error: str = ""

    def end(self, now: Nanos, number: int, result: Result) -> None:
        """Record the result, which has arrived now."""
        self.arrived, self.number, self.status = now, number, 0
        if isinstance(result, InferResult):
            self.timing, self.copy_input, self.copy_output = result.exec, result.copy_input, result.copy_output
        elif isinstance(result, LoadWeightsResult | EvictWeightsResult):
            self.timing = result.timing
        elif isinstance(result, ErrorResult):
            self.status, self.error = result.status, result.message

    @property
    def loads(self) -> bool:
        """Whether the action is a load of weights."""
        return not self.rows and not self.evicts
