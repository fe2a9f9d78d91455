"""Actions: the controller's orders to a worker, with their time windows.

Every action has an ``id``, which its result repeats. Times are nanoseconds on the clock of the host that holds the
message; the link translates them between hosts. An action does not start before ``earliest``. An action that could not
start by ``latest`` is refused with `Status.COULD_NOT_START_IN_TIME`, and delays no other action. ``gpu`` is the number
of a device, as in the paper, even if the device is a set of CPU cores. ``expected_duration`` is the controller's
estimate; the worker only records it.
"""

from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.tensors import TensorSpec
from clockwork.units import FOREVER, Bytes, Nanos


class LoadModelFromDisk(Struct, frozen=True, array_like=True, tag=1):
    """Read a model from below the worker's model root into host memory, as ``no_of_copies`` models.

    The copies are independent models that share only the file's content. `model_names` returns their names.
    """

    id: int
    path: str
    name: str
    no_of_copies: int = 1
    earliest: Nanos = 0
    latest: Nanos = FOREVER


class UnloadModel(Struct, frozen=True, array_like=True, tag=2):
    """Evict the weights of models from every device and remove the models from host memory."""

    id: int
    models: tuple[str, ...]


class LoadWeights(Struct, frozen=True, array_like=True, tag=3):
    """Copy a model's weights from host memory into the device's weights cache."""

    id: int
    gpu: int
    model: str
    earliest: Nanos = 0
    latest: Nanos = FOREVER
    expected_duration: Nanos = 0


class EvictWeights(Struct, frozen=True, array_like=True, tag=4):
    """Remove a model's weights from the device's weights cache, and free their pages."""

    id: int
    gpu: int
    model: str
    earliest: Nanos = 0
    latest: Nanos = FOREVER


class InferInput(Struct, frozen=True, array_like=True):
    """One request's share of an Infer action.

    ``batch_size`` is the number of its rows. ``outputs`` names the requested outputs; empty: all outputs. With
    ``generated`` there is no payload: the worker makes zeros of these shapes (for profiling, and for load tests without
    payloads). ``arena_offset`` is the offset of the payload in the memory shared with the controller; -1: the payload
    is sent with the action.
    """

    request_id: int
    batch_size: int
    tensors: tuple[TensorSpec, ...]
    outputs: tuple[str, ...] = ()
    generated: bool = False
    arena_offset: Bytes = -1

    @property
    def payload_bytes(self) -> Bytes:
        """The length of the payload, sent or shared."""
        return 0 if self.generated else sum(tensor.nbytes for tensor in self.tensors)


class Infer(Struct, frozen=True, array_like=True, tag=5):
    """Execute one batch of the rows of all inputs, in order. The inputs have equal dimensions except for the first.

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
        """The number of rows in the batch."""
        return sum([i.batch_size for i in self.inputs])


class ClearCache(Struct, frozen=True, array_like=True, tag=6):
    """Evict all weights from all devices of the worker. Weights in use are evicted as soon as they are not in use."""

    id: int


class GetWorkerState(Struct, frozen=True, array_like=True, tag=7):
    """Ask the worker for its devices, their memory, and its models."""

    id: int


Action: TypeAlias = LoadModelFromDisk | UnloadModel | LoadWeights | EvictWeights | Infer | ClearCache | GetWorkerState
DeviceAction: TypeAlias = LoadWeights | EvictWeights | Infer
"""The actions that one device executes; `GPUState` creates them."""


def model_names(name: str, no_of_copies: int) -> tuple[str, ...]:
    """Return the names of the models of a load: ``name``, or ``name-1`` to ``name-N`` for N copies."""
    if no_of_copies == 1:
        return (name,)
    return tuple(f"{name}-{i}" for i in range(1, no_of_copies + 1))
