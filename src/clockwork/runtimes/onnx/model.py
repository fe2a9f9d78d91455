"""The two forms of an ONNX model: in host memory (`OnnxModel`) and on a device (`LoadedOnnxModel`).

`LoadedOnnxModel` executes every inference. The module `clockwork.runtimes.batches` describes the form of its inputs and
outputs. Elements of BYTES tensors are converted to str objects, which ONNX Runtime requires.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from clockwork.arrays import Array
from clockwork.errors import InvalidRequestError
from clockwork.messages.tensors import Datatype, TensorSpec
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batches import NO_ROW, Feed, LoadedArrayModel
from clockwork.runtimes.common import weights_error
from clockwork.runtimes.onnx.closing import CloseTiming
from clockwork.runtimes.onnx.prepared import Placeholder, PreparedModel
from clockwork.runtimes.onnx.sessions import FAILURES, LIBRARY, describe, run, run_with_bfloat16


class OnnxModel:
    """An optimised model in host memory. Any number of sessions can use its weights."""

    def __init__(
        self,
        info: HostModelInfo,
        prepared: PreparedModel,
        threads: int,
        placeholder: Placeholder | None,
        packed: bool,
        close_timing: CloseTiming,
        example: Mapping[str, Array] = NO_ROW,
    ) -> None:
        """If ``placeholder`` is None, every session copies the weights.

        If ``packed`` is true, sessions pack weights.
        """
        self.info: Final = info
        self._prepared = prepared
        self._threads = threads
        self._placeholder = placeholder
        self._packed = packed
        self._close_timing = close_timing
        self._example = example

    @property
    def in_place(self) -> bool:
        """Whether sessions use the weights in place, without a copy."""
        return self._placeholder is not None

    @property
    def packed(self) -> bool:
        """Whether sessions pack weights; see `clockwork.runtimes.onnx.packing`."""
        return self._packed

    def with_packing(self, packed: bool) -> "OnnxModel":
        """Return the same model with packing switched on or off. Benchmarks compare both variants."""
        return OnnxModel(
            info=self.info,
            prepared=self._prepared,
            threads=self._threads,
            placeholder=self._placeholder,
            packed=packed,
            close_timing=self._close_timing,
            example=self._example,
        )

    def load_weights(self, device: int) -> "LoadedOnnxModel":
        """Open a session.

        Sessions for all CPU devices are the same, because the cores of the calling thread execute them.

        Raises:
            ServerError: ONNX Runtime could not open the session.
        """
        try:
            session = self._prepared.session(self._threads, self._placeholder, self._packed)
        except FAILURES as error:
            raise weights_error(LIBRARY, self.info.weights_bytes, device, describe(error)) from error
        return LoadedOnnxModel(self.info, session, self._prepared, self._close_timing, self._example)


class LoadedOnnxModel(LoadedArrayModel):
    """A model on a device, which is a session of ONNX Runtime."""

    def __init__(
        self,
        info: HostModelInfo,
        session: Any,
        owner: PreparedModel,
        close_timing: CloseTiming,
        example: Mapping[str, Array] = NO_ROW,
    ) -> None:
        """``owner`` holds the memory that the session uses. All sessions of a runtime share one ``close_timing``."""
        super().__init__(info, _decode_strings, example)
        self._close_timing = close_timing
        self._session: Any | None = session
        self._owner: PreparedModel | None = owner
        self._outputs = [output.name for output in info.outputs]
        with_bfloat16 = any(port.datatype == Datatype.BF16 for port in info.inputs + info.outputs)
        self._run = run_with_bfloat16 if with_bfloat16 else run

    def execute(self, batch: Feed) -> list[Array]:
        """Run the model on the batch.

        Raises:
            InvalidRequestError: the model rejects these inputs. ServerError: the execution failed for any other reason.
        """
        self._close_timing.inference_begins()
        try:
            return self._run(self._session, self._outputs, batch)
        finally:
            self._close_timing.inference_ends()

    def close(self) -> None:
        """Destroy the session at a moment when no inference has to wait. The outputs of the session stay valid."""
        if self._session is not None:
            self._close_timing.wait()
        self._session = None
        self._owner = None


def _decode_strings(tensor: TensorSpec, array: Array) -> Array:
    """Decode elements of type bytes. ONNX strings are UTF-8, and ONNX Runtime requires str objects."""
    strings = np.empty(array.size, object)
    try:
        strings[:] = [element.decode() for element in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"an element of tensor {tensor.describe()} is not UTF-8 ({error.reason} at its byte {error.start}); "
            "ONNX models accept only UTF-8 strings"
        ) from None
    return strings.reshape(array.shape)
