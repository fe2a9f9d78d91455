"""Actions: what a controller orders a worker to do, and when.

Every action has an ``id`` that its result repeats. Times are nanoseconds on the clock of whoever holds the message: the
link translates them between hosts. An action does not start before ``earliest``; one that could not start by ``latest``
is refused with `Status.COULD_NOT_START_IN_TIME`, and costs nobody but itself. A device is a ``gpu``, as in the paper,
whatever it is made of. ``expected_duration`` is what the controller plans with; the worker only records it.
"""

from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.tensors import TensorSpec
from clockwork.units import FOREVER, Bytes, Nanos


class LoadModelFromDisk(Struct, frozen=True, array_like=True, tag=1):
    """Read a model under the worker's model root into host memory, ready for LoadWeights; makes ``no_of_copies``.

    The copies are independent models that share nothing but the file. They are named by `model_names`.
    """

    id: int
    path: str
    name: str
    no_of_copies: int = 1
    earliest: Nanos = 0
    latest: Nanos = FOREVER


class UnloadModel(Struct, frozen=True, array_like=True, tag=2):
    """Forget models: evict their weights from every device and drop them from host memory. Undoes LoadModelFromDisk."""

    id: int
    models: tuple[str, ...]


class LoadWeights(Struct, frozen=True, array_like=True, tag=3):
    """Bring a model's weights from host memory into the device's weights cache."""

    id: int
    gpu: int
    model: str
    earliest: Nanos = 0
    latest: Nanos = FOREVER
    expected_duration: Nanos = 0


class EvictWeights(Struct, frozen=True, array_like=True, tag=4):
    """Give a model's pages in the device's weights cache back."""

    id: int
    gpu: int
    model: str
    earliest: Nanos = 0
    latest: Nanos = FOREVER


class InferInput(Struct, frozen=True, array_like=True):
    """One request's share of an Infer action.

    ``batch_size`` counts its rows in the batch. ``outputs`` names the outputs wanted, all if empty. With ``generated``
    there is no payload: the worker makes zeros of these shapes (profiling, and load tests without a network).
    ``arena_offset``: where the payload lies in memory shared with the controller; -1: it comes with the action.
    """

    request_id: int
    batch_size: int
    tensors: tuple[TensorSpec, ...]
    outputs: tuple[str, ...] = ()
    generated: bool = False
    arena_offset: Bytes = -1

    @property
    def payload_bytes(self) -> Bytes:
        """The length of its payload, wherever that is."""
        return 0 if self.generated else sum(tensor.nbytes for tensor in self.tensors)


class Infer(Struct, frozen=True, array_like=True, tag=5):
    """Execute one batch, made of the rows of its inputs in order. All inputs agree in every dimension but the first.

    With ``apart`` the worker executes the inputs one after the other instead of as one batch.
    """

    id: int
    gpu: int
    model: str
    inputs: tuple[InferInput, ...]
    earliest: Nanos = 0
    latest: Nanos = FOREVER
    expected_duration: Nanos = 0
    apart: bool = False

    @property
    def batch_size(self) -> int:
        """Rows in the batch."""
        return sum([i.batch_size for i in self.inputs])


class ClearCache(Struct, frozen=True, array_like=True, tag=6):
    """Evict all weights from all devices of the worker; those in use as soon as they no longer are."""

    id: int


class GetWorkerState(Struct, frozen=True, array_like=True, tag=7):
    """Ask the worker for its devices, their memory, and the models it holds."""

    id: int


Action: TypeAlias = LoadModelFromDisk | UnloadModel | LoadWeights | EvictWeights | Infer | ClearCache | GetWorkerState
DeviceAction: TypeAlias = LoadWeights | EvictWeights | Infer
"""Actions that `GPUState` makes and that one device executes."""


def model_names(name: str, no_of_copies: int) -> tuple[str, ...]:
    """The names of the models that LoadModelFromDisk makes: ``name``, or ``name-1`` to ``name-N`` for N copies."""
    if no_of_copies == 1:
        return (name,)
    return tuple(f"{name}-{i}" for i in range(1, no_of_copies + 1))
