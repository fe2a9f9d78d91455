"""Keeps a limited number of executed requests, so that idle devices can execute these requests again.

`clockwork.controller.verifying` and `clockwork.controller.shadowing` compare the outputs of both executions.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct

from clockwork.messages.actions import InferInput
from clockwork.messages.results import InferResult
from clockwork.messages.tensors import TensorSpec
from clockwork.units import Bytes


class Sample(Struct, kw_only=True):
    """A request that was executed, with its outputs.

    ``nbytes`` is the memory that the sample takes. This memory includes the inputs of the sample and the outputs of the
    whole batch, because the outputs of a batch are one buffer. ``attempts`` is the number of failed attempts to execute
    the request again.
    """

    input: InferInput
    payload: object
    outputs: tuple[TensorSpec, ...]
    outputs_payload: object
    nbytes: Bytes
    attempts: int = 0


SampleT = TypeVar("SampleT", bound=Sample)


def sample_bytes(share: InferInput, result: InferResult) -> Bytes:
    """Return the memory that is needed for a sample of a request from an executed batch."""
    return share.payload_bytes + sum(tensor.nbytes for output in result.outputs for tensor in output.tensors)


class Samples(Generic[SampleT]):
    """The samples that wait, and the current sample, which is being executed or compared."""

    def __init__(self, max_count: int, max_bytes: Bytes) -> None:
        """Start without samples. The limits include the current sample."""
        self._max_count = max_count
        self._max_bytes = max_bytes
        self.waiting: deque[SampleT] = deque()
        self.current: SampleT | None = None
        self.nbytes: Bytes = 0
        self.due = False  #: whether a sample waits and there is no current sample

    def __len__(self) -> int:
        """Return the number of samples, including the current sample."""
        return len(self.waiting) + (self.current is not None)

    def fits(self, nbytes: Bytes) -> bool:
        """Return whether there is room for one more sample of this size."""
        return len(self) < self._max_count and self.nbytes + nbytes <= self._max_bytes

    def add(self, sample: SampleT) -> None:
        """Add a sample for which there is room."""
        self.waiting.append(sample)
        self.nbytes += sample.nbytes
        self._settle()

    def take(self, sample: SampleT) -> None:
        """Make a waiting sample the current sample. The caller must later call `put_back` or `end`."""
        assert self.current is None
        self.waiting.remove(sample)
        self.current = sample
        self._settle()

    def put_back(self) -> None:
        """Let the current sample wait again, before all other samples."""
        assert self.current is not None
        self.waiting.appendleft(self.current)
        self.current = None
        self._settle()

    def end(self) -> None:
        """Forget the current sample, if there is one."""
        if self.current is not None:
            self.nbytes -= self.current.nbytes
            self.current = None
            self._settle()

    def discard(self, matches: Callable[[SampleT], bool]) -> list[SampleT]:
        """Remove and return the waiting samples that match."""
        found = [sample for sample in self.waiting if matches(sample)]
        for sample in found:
            self.waiting.remove(sample)
            self.nbytes -= sample.nbytes
        self._settle()
        return found

    def _settle(self) -> None:
        self.due = bool(self.waiting) and self.current is None

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        held = [*self.waiting, *([] if self.current is None else [self.current])]
        assert self.nbytes == sum(sample.nbytes for sample in held)
        assert self.nbytes <= self._max_bytes
        assert len(held) <= self._max_count
        assert self.due == (bool(self.waiting) and self.current is None)
