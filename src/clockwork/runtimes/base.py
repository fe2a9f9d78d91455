"""The interface between the worker and the runtimes that execute models.

Threads: every method may block. The worker calls these methods on its lane threads, never on the network's event loop.
All devices of a worker share one `Runtime`. A `LoadedModel` belongs to one device, whose EXEC lane calls `execute` from
one thread at a time.

Payloads are bytes-like: a tensor's elements in wire order (see `clockwork.messages.tensors`).

A model has three forms, as in the paper: a file on disk; a `HostModel` in host memory, read and prepared once; a
`LoadedModel` in a device's weights cache.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from clockwork.messages.actions import InferInput
from clockwork.messages.results import DeviceTime
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.runtimes.links import LinkPolicy
from clockwork.units import Bytes

Payload: TypeAlias = Any
"""Bytes-like (the buffer protocol), or None if the worker generates zeros."""

Batch: TypeAlias = Any
"""A batch of inputs, or its outputs, in the runtime's own form.

It releases its memory when nothing refers to it any more: a batch may be dropped before it is executed, and outputs may
be dropped before they are split.
"""


class HostModelInfo(Struct, frozen=True):
    """Properties of a prepared model; see `clockwork.messages.results.ModelInfo`."""

    digest: str
    """Digest of the content and of the batching policy; see `clockwork.runtimes.batching.BatchingPolicy.digest`."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    weights_bytes: Bytes
    runtime: str
    """Name and version of the library: ``onnxruntime 1.32.0``. Measured times hold only for this version."""
    note: str = ""
    """How the model is executed, if that is unusual; else empty."""
    unbatched: str = ""
    """Why requests cannot share a batch; empty if they can."""
    max_batch: int = 0
    """Largest batch that the model's config.pbtxt allows, in rows; 0: no limit is configured."""


class LoadedModel(Protocol):
    """A model whose weights are on a device.

    Every method may raise `clockwork.errors.DeviceLostError`; the worker then ends.
    """

    @property
    def uploads(self) -> bool:
        """Whether `assemble` copies inputs to the device. If so, single requests are assembled ahead of time, too."""
        ...

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Batch:
        """Assemble a batch from the rows of several requests. A payload is None if its input is ``generated``.

        Raises:
            InvalidRequestError: a payload does not fit its specs, or the model.
        """
        ...

    def execute(self, batch: Batch) -> Batch:
        """Run the model on the batch.

        Raises:
            InvalidRequestError: the model rejects these inputs.
            ServerError: anything else.
        """
        ...

    def split(self, inputs: Sequence[InferInput], outputs: Batch) -> list[tuple[tuple[TensorSpec, ...], list[Payload]]]:
        """Return the specs and payloads of each request's outputs, in the order of ``inputs``."""
        ...

    def device_time(self, outputs: Batch) -> DeviceTime | None:
        """Return how long the device took to `execute`; call after `split`. None: use the caller's measurement."""
        ...

    def close(self) -> None:
        """Release the memory. Not called while `execute` runs."""
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
            ServerError: the runtime could not load them.
        """
        ...


class Runtime(Protocol):
    """Executes models on the devices of one worker."""

    links: LinkPolicy
    """Which links out of a model's directory are followed; set before the first model is loaded."""

    @property
    def version(self) -> str:
        """Name and version of the library: ``onnxruntime 1.32.0``."""
        ...

    @property
    def device_kind(self) -> str:
        """Hardware of the devices and threads of each. Devices of one kind are equally fast."""
        ...

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file that a path means; see `clockwork.runtimes.locating`.

        If the path is a model file, that file is returned.

        Raises:
            InvalidModelError: there is no such file, or the choice is ambiguous.
        """
        ...

    def load_model(self, path: Path, name: str = "") -> HostModel:
        """Read and prepare a model. ``path`` is absolute, exists, and lies within the model root.

        ``name`` is the model's name, which the operator's batching options refer to.

        Raises:
            InvalidModelError: the file is not a model of this runtime, or is broken.
        """
        ...
