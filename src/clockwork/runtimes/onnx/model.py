"""The two hands that a model passes through: in host memory, and on a device.

Rules of the file: `LoadedOnnxModel` is what every inference goes through. Inputs and outputs are as in
`clockwork.runtimes.batches`; strings are objects of type str, which is what ONNX Runtime takes.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from clockwork.arrays import Array
from clockwork.errors import InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import Datatype, TensorSpec
from clockwork.runtimes.base import HostModelInfo, Payload
from clockwork.runtimes.batches import Batches, Feed, Share
from clockwork.runtimes.onnx.calm import Calm
from clockwork.runtimes.onnx.prepared import Placeholder, Prepared
from clockwork.runtimes.onnx.sessions import FAILURES, run, run_with_bfloat16, said
from clockwork.units import show_bytes


class OnnxModel:
    """A model in host memory: optimised, its weights ready to be used by any number of sessions."""

    def __init__(
        self,
        info: HostModelInfo,
        prepared: Prepared,
        threads: int,
        placeholder: Placeholder | None,
        packed: bool,
        calm: Calm,
    ) -> None:
        """Without placeholder, every session copies the weights; if ``packed`` it packs those that it can."""
        self._info = info
        self._prepared = prepared
        self._threads = threads
        self._placeholder = placeholder
        self._packed = packed
        self._calm = calm

    @property
    def info(self) -> HostModelInfo:
        """What is known of it."""
        return self._info

    @property
    def in_place(self) -> bool:
        """Whether sessions use the weights where they lie."""
        return self._placeholder is not None

    @property
    def packed(self) -> bool:
        """Whether sessions pack weights; see `clockwork.runtimes.onnx.packing`."""
        return self._packed

    def with_packing(self, packed: bool) -> "OnnxModel":
        """The same model, with sessions that pack weights or do not; to compare."""
        return OnnxModel(self._info, self._prepared, self._threads, self._placeholder, packed, self._calm)

    def load_weights(self, device: int) -> "LoadedOnnxModel":
        """Make a session. All devices are alike; the caller's thread decides which CPU they are.

        Raises:
            ServerError: ONNX Runtime could not.
        """
        try:
            session = self._prepared.session(self._threads, self._placeholder, self._packed)
        except FAILURES as error:
            raise ServerError(
                f"ONNX Runtime could not load {show_bytes(self._info.weights_bytes)} of weights on device {device}: "
                f"{said(error)}"
            ) from error
        return LoadedOnnxModel(self._info, session, self._prepared, self._calm)


class LoadedOnnxModel:
    """A model on a device: a session."""

    uploads: Final = False

    def __init__(self, info: HostModelInfo, session: Any, owner: Prepared, calm: Calm) -> None:
        """``owner`` holds the memory that the session uses; ``calm`` is that of all sessions."""
        self._calm = calm
        self._session: Any | None = session
        self._owner: Prepared | None = owner
        self._batches = Batches(info, _texts)
        self._outputs = [it.name for it in info.outputs]
        with_bfloat16 = any(it.datatype == Datatype.BF16 for it in info.inputs + info.outputs)
        self._run = run_with_bfloat16 if with_bfloat16 else run

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Feed:
        """One batch from the rows of several requests; see `clockwork.runtimes.batches`."""
        return self._batches.assemble(inputs, payloads)

    def execute(self, batch: Feed) -> list[Array]:
        """Run the model on the batch.

        Raises:
            InvalidRequestError: the model refuses these inputs.
            ServerError: anything else.
        """
        self._calm.begins()
        try:
            return self._run(self._session, self._outputs, batch)
        finally:
            self._calm.ends()

    def split(self, inputs: Sequence[InferInput], outputs: list[Array]) -> list[Share]:
        """Each request's share of the outputs; see `clockwork.runtimes.batches`."""
        return self._batches.split(inputs, outputs)

    def device_time(self, outputs: list[Array]) -> None:
        """The caller's clock is the device's."""

    def close(self) -> None:
        """Give the session's memory back. What was put out stays. Waits for a calm moment, `calm.WAIT_MAX` at most."""
        if self._session is not None:
            self._calm.wait()
        self._session = None
        self._owner = None


def _texts(tensor: TensorSpec, array: Array) -> Array:
    """ONNX's strings are UTF-8; ONNX Runtime takes them as str."""
    texts = np.empty(array.size, object)
    try:
        texts[:] = [element.decode() for element in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"an element of tensor {tensor.describe()} is not UTF-8 ({error.reason} at its byte {error.start}); "
            "ONNX models take texts only"
        ) from None
    return texts.reshape(array.shape)
