"""The interface between the worker and the runtimes that execute models.

Every method may block. The worker calls these methods on its lane threads, never on the network's event loop. All
devices of a worker share one `Runtime`. A `LoadedModel` belongs to one device, whose EXEC lane calls `execute` from one
thread at a time.

A payload is a bytes-like object. A payload contains a tensor's elements in wire order (see
`clockwork.messages.tensors`).

A model has three forms, as in the paper. The first form is a file on disk. The second form is a `HostModel` in host
memory, which is read and prepared once. The third form is a `LoadedModel` in a device's weights cache.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from clockwork.messages.actions import InferInput
from clockwork.messages.results import DeviceTime, ExampleInputs, TrialRun
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.runtimes.links import LinkPolicy
from clockwork.units import Bytes

Payload: TypeAlias = Any
"""A bytes-like object that supports the buffer protocol, or None if the worker generates the input."""

Batch: TypeAlias = Any
"""A batch of inputs, or its outputs, in the runtime's own form.

A batch releases its memory when nothing refers to it any more. The worker may drop a batch before it is executed, and
may drop outputs before they are split.
"""


class HostModelInfo(Struct, frozen=True):
    """Properties of a prepared model; see `clockwork.messages.results.ModelInfo`."""

    digest: str
    """Digest of the model's content and of its batching policy; see
    `clockwork.runtimes.batching.BatchingPolicy.digest`.
    """
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    weights_bytes: Bytes
    runtime: str
    """Name and version of the library, such as ``onnxruntime 1.32.0``. Measured times are used only with the same
    version.
    """
    note: str = ""
    """A note for people about an unusual way of executing the model, or an empty text."""
    unbatched: str = ""
    """The reason why requests cannot share a batch, or an empty text if they can."""
    max_batch: int = 0
    """Largest batch that the model's config.pbtxt allows, in rows. If no limit is configured, this is 0."""
    trial: TrialRun | None = None
    """Result of executing one row in the trial of the model, or None if the model accepted no inputs."""
    example: ExampleInputs | None = None
    """Inputs that the model accepts, for its measurement, or None if the runtime did not search for such inputs."""


class LoadedModel(Protocol):
    """A model whose weights are on a device.

    Every method may raise `clockwork.errors.DeviceLostError`. This error ends the worker.
    """

    @property
    def uploads(self) -> bool:
        """Whether `assemble` copies inputs to the device.

        If `assemble` copies inputs, the worker assembles even batches of one request in advance.
        """
        ...

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Batch:
        """Assemble a batch from the rows of several requests.

        The payload of an input that is marked ``generated`` is None.

        Raises:
            InvalidRequestError: a payload does not fit its specs, or the model.
        """
        ...

    def execute(self, batch: Batch) -> Batch:
        """Run the model on the batch.

        Raises:
            InvalidRequestError: the model rejects these inputs. ServerError: the execution failed for any other reason.
        """
        ...

    def split(self, inputs: Sequence[InferInput], outputs: Batch) -> list[tuple[tuple[TensorSpec, ...], list[Payload]]]:
        """Return the specs and payloads of each request's outputs, in the order of ``inputs``."""
        ...

    def device_time(self, outputs: Batch) -> DeviceTime | None:
        """Return the time that the device needed to `execute` the batch. Call this method after `split`.

        None means that the caller must use its own measurement.
        """
        ...

    def close(self) -> None:
        """Release the memory. The caller never calls this method while `execute` runs."""
        ...


class HostModel(Protocol):
    """A model in host memory."""

    @property
    def info(self) -> HostModelInfo:
        """Properties of the model."""
        ...

    def load_weights(self, device: int) -> LoadedModel:
        """Load the weights onto the worker's device with this number.

        Raises:
            ServerError: the runtime could not load the weights.
        """
        ...


class Runtime(Protocol):
    """Executes models on the devices of one worker."""

    links: LinkPolicy
    """Decides which links that point out of a model's directory are followed. Set the policy before the first model is
    loaded.
    """

    @property
    def version(self) -> str:
        """Name and version of the library, such as ``onnxruntime 1.32.0``."""
        ...

    @property
    def device_kind(self) -> str:
        """Name of the hardware and number of threads of a device. Devices of one kind are equally fast."""
        ...

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file for a path, by the rules of `clockwork.runtimes.locating`.

        If the path is a model file, that file is returned.

        Raises:
            InvalidModelError: there is no such file, or the choice is ambiguous.
        """
        ...

    def load_model(self, path: Path, name: str = "", *, isolated: bool = False) -> HostModel:
        """Read and prepare a model.

        ``path`` is an absolute path of an existing file or directory inside the model root.

        ``name`` is the model's name. The operator's batching options refer to models by name.

        ``isolated`` means that this process serves requests during the call. In this case, the runtime prepares the
        model in a separate process if it can.

        Raises:
            InvalidModelError: the file is not a model of this runtime, or is broken.
        """
        ...
