"""The interface between the worker and whatever executes models.

Rules of the file: every method may block and is called on the worker's lane threads, never on the network loop. A
`Runtime` is shared by all devices of a worker; a `LoadedModel` belongs to one device, whose EXEC lane calls `execute`
from one thread at a time. Payloads are bytes-like: a tensor's elements in wire order (see
`clockwork.messages.tensors`).

A model passes through three hands, as in the paper: on disk; in host memory, read and prepared once (`HostModel`); in a
device's weights cache (`LoadedModel`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from clockwork.messages.actions import InferInput
from clockwork.messages.results import DeviceTime
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.units import Bytes

Payload: TypeAlias = Any
"""Bytes-like (the buffer protocol), or None where the worker is to make zeros."""

Batch: TypeAlias = Any
"""A runtime's own form of a batch of inputs, or of outputs.

It gives back what it holds when nobody refers to it any more: a batch may be dropped before it is executed, and outputs
before they are split.
"""


class HostModelInfo(Struct, frozen=True):
    """What is known of a model once it has been read; see `clockwork.messages.results.ModelInfo`."""

    digest: str
    """Digest of the content and of the batching policy; see `clockwork.runtimes.batching.BatchingPolicy.digest`."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batchable: bool
    weights_bytes: Bytes
    runtime: str
    """Name and version of what executes it, ``onnxruntime 1.32.0``: measured times hold for this version only."""
    note: str = ""
    """How the model is executed, where that is worth knowing."""
    unbatched: str = ""
    """Why requests are not put into one batch; empty if they are."""
    max_batch: int = 0
    """The most rows of a batch, as far as the model's own configuration says; 0: it does not."""


class LoadedModel(Protocol):
    """A model whose weights are on a device.

    Every method may raise `clockwork.errors.DeviceLostError`: then the worker ends.
    """

    @property
    def uploads(self) -> bool:
        """Whether `assemble` sends inputs to the device, so that it is worth being done ahead even for one request."""
        ...

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Batch:
        """One batch from the rows of several requests; one payload per input, None if it is ``generated``.

        Raises:
            InvalidRequestError: a payload does not fit its specs, or the model.
        """
        ...

    def execute(self, batch: Batch) -> Batch:
        """Run the model on the batch.

        Raises:
            InvalidRequestError: the model refuses these inputs.
            ServerError: anything else.
        """
        ...

    def split(self, inputs: Sequence[InferInput], outputs: Batch) -> list[tuple[tuple[TensorSpec, ...], list[Payload]]]:
        """Each request's share of the outputs: its specs, and their elements' buffers; in the order of ``inputs``."""
        ...

    def device_time(self, outputs: Batch) -> DeviceTime | None:
        """What the device took to `execute`, after `split`; None if that is what the caller has measured."""
        ...

    def close(self) -> None:
        """Give the memory back. Not called while `execute` runs."""
        ...


class HostModel(Protocol):
    """A model in host memory."""

    @property
    def info(self) -> HostModelInfo:
        """What is known of it."""
        ...

    def load_weights(self, device: int) -> LoadedModel:
        """Bring the weights onto device number ``device`` of the worker.

        Raises:
            ServerError: the runtime could not.
        """
        ...


class Runtime(Protocol):
    """One way of executing models, on the devices of one worker."""

    @property
    def version(self) -> str:
        """Name and version, for people: ``onnxruntime 1.32.0``."""
        ...

    @property
    def device_kind(self) -> str:
        """The hardware of its devices and the threads each uses: devices of one kind are equally fast."""
        ...

    def load_model(self, path: Path, name: str = "") -> HostModel:
        """Read and prepare a model. ``path`` is absolute, exists, and lies within the model root.

        ``name`` is the model's, by which the operator's options mean it.

        Raises:
            InvalidModelError: not a model of this runtime, or a broken one.
        """
        ...
