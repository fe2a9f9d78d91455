"""Actions, which the controller sends to a worker. Most actions have a time window.

Every action has an ``id``, and its result has the same ``id``. Times are in nanoseconds. On the controller's host,
times are of the controller's clock. On the worker's host, times are of the worker's clock. The controller's host
converts between the clocks. An action does not start before ``earliest``. If an action cannot start by ``latest``, the
worker refuses it with `Status.COULD_NOT_START_IN_TIME`, so that it delays no other action. ``gpu`` is the number of a
device, which may also be a set of CPU cores. ``expected_duration`` is the controller's estimate, which the worker only
records.
"""

from typing import TypeAlias

from msgspec import Struct

from clockwork.messages.tensors import TensorSpec
from clockwork.units import FOREVER, Bytes, Nanos


class LoadModelFromDisk(Struct, frozen=True, array_like=True, tag=1):
    """Read a model's file into host memory, as ``no_of_copies`` models.

    The path is relative to the worker's model root. The copies are independent models. Copies share only the content of
    the file. `model_names` returns the names of the copies. ``isolated`` means that the worker serves requests during
    the load, and should prepare the model in a separate process. If ``content`` is not empty, the worker reads the
    files that it has received for this content (`FetchModel`), and not the files in its model root.
    """

    id: int
    path: str
    name: str
    no_of_copies: int = 1
    earliest: Nanos = 0
    latest: Nanos = FOREVER
    isolated: bool = False
    content: str = ""


class UnloadModel(Struct, frozen=True, array_like=True, tag=2):
    """Evict the weights of models from every device, and remove the models from host memory."""

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
    """The part of an Infer action that belongs to one request.

    ``batch_size`` is the number of the request's rows. ``outputs`` names the requested outputs; it is empty if all
    outputs are requested. If ``generated`` is true, there is no payload, and the worker generates the inputs. Profiling
    and some load tests use generated inputs. ``arena_offset`` is the offset of the payload in the memory that the
    worker shares with the controller. The offset is -1 if the payload is sent with the action.
    """

    request_id: int
    batch_size: int
    tensors: tuple[TensorSpec, ...]
    outputs: tuple[str, ...] = ()
    generated: bool = False
    arena_offset: Bytes = -1

    @property
    def payload_bytes(self) -> Bytes:
        """The length of the request's payload in bytes."""
        return 0 if self.generated else sum(tensor.nbytes for tensor in self.tensors)


class Infer(Struct, frozen=True, array_like=True, tag=5):
    """Execute the rows of all inputs as one batch. All dimensions of the inputs except the first must be equal.

    If ``apart`` is true, the worker executes the inputs one after the other instead.
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
    """Evict all weights from all devices of the worker.

    If weights are in use, the worker first waits until their use ends.
    """

    id: int


class GetWorkerState(Struct, frozen=True, array_like=True, tag=7):
    """Request a description of the worker: its devices, their memory, and its models."""

    id: int


class FetchModel(Struct, frozen=True, array_like=True, tag=8):
    """Receive the files of a content from the controller, unless the worker has them (`clockwork.messages.files`).

    ``nbytes`` is the total size of the files.
    """

    id: int
    content: str
    nbytes: Bytes


Action: TypeAlias = (
    LoadModelFromDisk | UnloadModel | LoadWeights | EvictWeights | Infer | ClearCache | GetWorkerState | FetchModel
)
DeviceAction: TypeAlias = LoadWeights | EvictWeights | Infer
"""The actions that one device executes. `GPUState` creates these actions."""


def model_names(name: str, no_of_copies: int) -> tuple[str, ...]:
    """Return the names of the models that a load creates: ``name``, or ``name-1`` to ``name-N`` for N copies."""
    if no_of_copies == 1:
        return (name,)
    return tuple(f"{name}-{i}" for i in range(1, no_of_copies + 1))
