"""Requests into a batch, and a batch's outputs back to the requests; the same for every runtime.

Rules of the file: one request's inputs are views of its payload; several are copied once, into the batch. Outputs are
never copied: each request gets a view of its rows.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from clockwork.arrays import Array, dtype_of, from_payload, raw_bytes, to_payload
from clockwork.errors import InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import Datatype, TensorInfo, TensorSpec
from clockwork.runtimes.base import HostModelInfo, Payload
from clockwork.runtimes.signature import FREE

Feed: TypeAlias = dict[str, Array]
"""Inputs by name."""

Share: TypeAlias = tuple[tuple[TensorSpec, ...], list[Payload]]
"""One request's outputs."""


def as_they_are(tensor: TensorSpec, array: Array) -> Array:
    """Strings as objects of type bytes."""
    return array


class Batches:
    """What a model's inputs and outputs are, and so how its batches are made and shared."""

    def __init__(self, info: HostModelInfo, texts: Callable[[TensorSpec, Array], Array] = as_they_are) -> None:
        """``texts`` makes of arrays of bytes what the runtime takes as strings."""
        self._texts = texts
        self._batchable = info.batchable
        self._inputs = {it.name: it for it in info.inputs}
        self._strings = frozenset(it.name for it in info.inputs if it.datatype == Datatype.BYTES)
        self._outputs = [it.name for it in info.outputs]
        self._datatypes = [it.datatype for it in info.outputs]
        self._positions = {name: i for i, name in enumerate(self._outputs)}

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> Feed:
        """One batch from the rows of several requests; one payload per input, None if it is ``generated``.

        Raises:
            InvalidRequestError: a payload does not fit its specs, or the model.
        """
        if len(inputs) == 1:
            return self._feed(inputs[0], payloads[0])
        return {name: np.concatenate(arrays) for name, arrays in self.rows(inputs, payloads).items()}

    def rows(self, inputs: Sequence[InferInput], payloads: Sequence[Payload]) -> dict[str, list[Array]]:
        """The arrays of each input, one of each request, that `assemble` puts together; raises as that does."""
        if len(inputs) > 1 and not self._batchable:
            raise InvalidRequestError(f"the model takes one request at a time; {len(inputs)} were put into a batch")
        feeds = [self._feed(it, payload) for it, payload in zip(inputs, payloads, strict=True)]
        rows = {name: [feed[name] for feed in feeds] for name in self._inputs}
        if len(inputs) > 1:
            for name, arrays in rows.items():
                _check_same(self._inputs[name], arrays)
        return rows

    def split(self, inputs: Sequence[InferInput], outputs: list[Array]) -> list[Share]:
        """Each request's share of the outputs, in the order of ``inputs``: its specs, and their buffers.

        Raises:
            ServerError: the outputs have other rows than the inputs.
        """
        if len(inputs) == 1:
            return [self._share(inputs[0], outputs)]
        rows = sum(it.batch_size for it in inputs)
        for name, array in zip(self._outputs, outputs, strict=True):
            if array.shape[:1] != (rows,):
                raise ServerError(
                    f"output {name!r} has shape {array.shape} for a batch of {rows} rows: the model cannot be batched"
                )
        shares: list[Share] = []
        start = 0
        for it in inputs:
            end = start + it.batch_size
            shares.append(self._share(it, [array[start:end] for array in outputs]))
            start = end
        return shares

    def _feed(self, it: InferInput, payload: Payload) -> Feed:
        for name in it.outputs:
            if name not in self._positions:
                raise InvalidRequestError(f"the model has no output {name!r}; it has {', '.join(self._outputs)}")
        if payload is None:
            payload = b""  # numpy would take None as a wish for memory of its own
        feed: Feed = {}
        offset = 0
        for tensor in it.tensors:
            self._check(it, tensor)
            if it.generated:
                feed[tensor.name] = _zeros(tensor)
                continue
            array = from_payload(tensor, payload, offset)
            offset += tensor.nbytes
            if not array.flags.aligned:
                array = array.copy()
            feed[tensor.name] = self._texts(tensor, array) if tensor.name in self._strings else array
        if len(feed) != len(self._inputs) or len(it.tensors) != len(feed):
            sent = ", ".join(tensor.name for tensor in it.tensors)
            raise InvalidRequestError(
                f"the model needs each of its inputs once: {', '.join(self._inputs)}; the request has {sent or 'none'}"
            )
        if not it.generated and offset != memoryview(payload).nbytes:
            raise InvalidRequestError(
                f"the tensors take {offset} bytes, but {memoryview(payload).nbytes} came with the request"
            )
        return feed

    def _check(self, it: InferInput, tensor: TensorSpec) -> None:
        """Whether the tensor is one of the model's inputs."""
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
        if self._batchable and shape[0] != it.batch_size:
            raise InvalidRequestError(
                f"input {tensor.describe()} has {shape[0]} rows, but the request's batch size is {it.batch_size}"
            )

    def _share(self, it: InferInput, arrays: Sequence[Array]) -> Share:
        names = it.outputs or self._outputs
        specs: list[TensorSpec] = []
        buffers: list[Payload] = []
        for name in names:
            at = self._positions[name]
            array = arrays[at]
            buffer = to_payload(array)[2] if array.dtype.kind == "O" else raw_bytes(array)
            specs.append(TensorSpec(name, self._datatypes[at], array.shape, len(buffer)))
            buffers.append(buffer)
        return tuple(specs), buffers


def _zeros(tensor: TensorSpec) -> Array:
    dtype = dtype_of(tensor.datatype)
    return np.full(tensor.shape, "", object) if dtype.kind == "O" else np.zeros(tensor.shape, dtype)


def _check_same(info: TensorInfo, rows: list[Array]) -> None:
    first = rows[0].shape[1:]
    for it in rows:
        if it.shape[1:] != first:
            raise InvalidRequestError(
                f"input {info.describe()} differs in more than the first dimension among the requests of a batch: "
                f"{list(rows[0].shape)} and {list(it.shape)}"
            )
