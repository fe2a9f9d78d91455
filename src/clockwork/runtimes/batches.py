"""Assembles requests into a batch, and splits a batch's outputs among its requests, for all runtimes.

If a batch has a single request, its inputs are views of the request's payload. The inputs of several requests are
copied once, into the batch. Outputs are never copied, because each request gets a view of its rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from clockwork.arrays import Array, from_payload, raw_bytes, to_payload
from clockwork.errors import InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import Datatype, TensorInfo, TensorSpec
from clockwork.runtimes.base import HostModelInfo, Payload
from clockwork.runtimes.random_elements import generated
from clockwork.runtimes.signature import FREE

Feed: TypeAlias = dict[str, Array]
"""The arrays of a batch by the names of the inputs."""

NO_ROW: Final[Mapping[str, Array]] = {}
"""A row for generated inputs whose elements are all zeros."""

RequestOutputs: TypeAlias = tuple[tuple[TensorSpec, ...], list[Payload]]
"""Specs and payloads of one request's outputs."""


def keep_strings(tensor: TensorSpec, array: Array) -> Array:
    """Return the array unchanged. The elements of BYTES tensors stay objects of type bytes."""
    return array


class Batcher:
    """Checks requests against a model's inputs and outputs, assembles batches and splits outputs."""

    def __init__(
        self,
        info: HostModelInfo,
        decode: Callable[[TensorSpec, Array], Array] = keep_strings,
        example: Mapping[str, Array] = NO_ROW,
    ) -> None:
        """``decode`` converts the arrays of BYTES tensors to the form of strings that the runtime uses.

        ``example`` has one row for some inputs. Generated inputs repeat the elements of this row, or are zeros.
        """
        self._decode = decode
        self._example = example
        self._batchable = info.batchable
        self._inputs = {tensor.name: tensor for tensor in info.inputs}
        self._strings = frozenset(tensor.name for tensor in info.inputs if tensor.datatype == Datatype.BYTES)
        self._optional = frozenset(tensor.name for tensor in info.inputs if tensor.optional)
        self._outputs = [tensor.name for tensor in info.outputs]
        self._datatypes = [tensor.datatype for tensor in info.outputs]
        self._positions = {name: i for i, name in enumerate(self._outputs)}

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Feed:
        """Assemble a batch from the rows of several requests.

        The payload of an input that is marked ``generated`` is None.

        Raises:
            InvalidRequestError: a payload does not fit its specs, or the model.
        """
        if len(inputs) == 1:
            return self._feed(inputs[0], payloads[0])
        return {name: np.concatenate(arrays) for name, arrays in self.rows(inputs, payloads).items()}

    def rows(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> dict[str, list[Array]]:
        """Return a list for each input name, with one array per request. The arrays are not concatenated yet.

        Raises:
            InvalidRequestError: a payload does not fit its specs, or the model.
        """
        if len(inputs) > 1 and not self._batchable:
            raise InvalidRequestError(f"the model takes one request at a time; the batch has {len(inputs)}")
        feeds = [self._feed(request, payload) for request, payload in zip(inputs, payloads, strict=True)]
        alone = next((name for feed in feeds for name in feed if name in self._optional), None)
        if len(inputs) > 1 and alone is not None:
            raise InvalidRequestError(f"a request with the optional input {alone!r} cannot share a batch")
        rows = {name: [feed[name] for feed in feeds] for name in feeds[0]}
        if len(inputs) > 1:
            for name, arrays in rows.items():
                _check_same(self._inputs[name], arrays)
        return rows

    def split(self, inputs: Sequence[InferInput], outputs: list[Array]) -> list[RequestOutputs]:
        """Return the outputs of each request, in the order of ``inputs``.

        Raises:
            ServerError: the outputs do not have as many rows as the inputs.
        """
        if len(inputs) == 1:
            return [self._request_outputs(inputs[0], outputs)]
        rows = sum(request.batch_size for request in inputs)
        for name, array in zip(self._outputs, outputs, strict=True):
            if array.shape[:1] != (rows,):
                raise ServerError(
                    f"output {name!r} has shape {array.shape} for a batch of {rows} rows: the model cannot be batched"
                )
        results: list[RequestOutputs] = []
        start = 0
        for request in inputs:
            end = start + request.batch_size
            results.append(self._request_outputs(request, [array[start:end] for array in outputs]))
            start = end
        return results

    def _feed(self, request: InferInput, payload: Payload) -> Feed:
        for name in request.outputs:
            if name not in self._positions:
                raise InvalidRequestError(f"the model has no output {name!r}; it has {', '.join(self._outputs)}")
        if payload is None:
            payload = b""  # numpy would allocate memory for None
        feed: Feed = {}
        offset = 0
        for tensor in request.tensors:
            self._check(request, tensor)
            if request.generated:
                feed[tensor.name] = generated(tensor.datatype, tensor.shape, self._example.get(tensor.name))
                continue
            array = from_payload(tensor, payload, offset)
            offset += tensor.nbytes
            if not array.flags.aligned:
                array = array.copy()
            feed[tensor.name] = self._decode(tensor, array) if tensor.name in self._strings else array
        missing = self._inputs.keys() - feed.keys() - self._optional
        if missing or len(request.tensors) != len(feed):
            sent = ", ".join(tensor.name for tensor in request.tensors)
            raise InvalidRequestError(
                f"the model needs each of its inputs once: {', '.join(self._inputs)}; the request has {sent or 'none'}"
            )
        if not request.generated and offset != memoryview(payload).nbytes:
            raise InvalidRequestError(
                f"the tensors take {offset} bytes, but the request's payload has {memoryview(payload).nbytes}"
            )
        return feed

    def _check(self, request: InferInput, tensor: TensorSpec) -> None:
        """Check that the tensor matches one of the model's inputs in name, type and shape."""
        info = self._inputs.get(tensor.name)
        if info is None:
            raise InvalidRequestError(f"the model has no input {tensor.name!r}; it has {', '.join(self._inputs)}")
        shape = tensor.shape
        if (
            tensor.datatype != info.datatype
            or len(shape) != len(info.shape)
            or any(want not in (dim, FREE) for want, dim in zip(info.shape, shape, strict=True))
        ):
            raise InvalidRequestError(f"the model's input is {info.describe()}; the request has {tensor.describe()}")
        if self._batchable and not info.optional and shape[0] != request.batch_size:
            raise InvalidRequestError(
                f"input {tensor.describe()} has {shape[0]} rows, but the request's batch size is {request.batch_size}"
            )

    def _request_outputs(self, request: InferInput, arrays: Sequence[Array]) -> RequestOutputs:
        names = request.outputs or self._outputs
        specs: list[TensorSpec] = []
        buffers: list[Payload] = []
        for name in names:
            position = self._positions[name]
            array = arrays[position]
            buffer = to_payload(array)[2] if array.dtype.kind == "O" else raw_bytes(array)
            specs.append(TensorSpec(name, self._datatypes[position], array.shape, len(buffer)))
            buffers.append(buffer)
        return tuple(specs), buffers


class LoadedArrayModel:
    """Base class of loaded models whose batches and outputs are numpy arrays in host memory.

    See `clockwork.runtimes.base.LoadedModel`.
    """

    uploads: Final = False

    def __init__(
        self,
        info: HostModelInfo,
        decode: Callable[[TensorSpec, Array], Array] = keep_strings,
        example: Mapping[str, Array] = NO_ROW,
    ) -> None:
        """``decode`` converts strings, and ``example`` has the elements of generated inputs, as in `Batcher`."""
        self._batcher = Batcher(info, decode, example)

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Feed:
        """Assemble a batch from the rows of several requests; see `Batcher.assemble`."""
        return self._batcher.assemble(inputs, payloads)

    def split(self, inputs: Sequence[InferInput], outputs: list[Array]) -> list[RequestOutputs]:
        """Return the outputs of each request; see `Batcher.split`."""
        return self._batcher.split(inputs, outputs)

    def device_time(self, outputs: list[Array]) -> None:
        """Return None, because the caller measures the time of `execute` itself."""


def _check_same(info: TensorInfo, arrays: list[Array]) -> None:
    expected = arrays[0].shape[1:]
    for array in arrays:
        if array.shape[1:] != expected:
            raise InvalidRequestError(
                f"input {info.describe()} differs in more than the first dimension among the requests of a batch: "
                f"{list(arrays[0].shape)} and {list(array.shape)}"
            )
