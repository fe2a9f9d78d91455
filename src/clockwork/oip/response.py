"""Encodes the body of the HTTP response to an inference request. The body is JSON followed by binary outputs.

If all outputs are binary and are requested in the order of the payload, the payload is sent unchanged. JSON is encoded
in slices, and its size is limited.
"""

from math import prod
from typing import Any

import msgspec

from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferResponse
from clockwork.messages.tensors import Datatype, TensorSpec
from clockwork.oip.binary import DEFAULT_MAX_JSON, InferHead
from clockwork.oip.elements import SLICE, classified, is_short, json_slices
from clockwork.steps import Steps
from clockwork.units import MILLISECOND, Bytes, show_bytes

_encode = msgspec.json.Encoder().encode


def response_body(
    head: InferHead,
    model: str,
    response: InferResponse,
    payload: Any,
    batched: bool,
    max_json: Bytes = DEFAULT_MAX_JSON,
) -> Steps[tuple[list[bytes], list[Any]]]:
    """Return the parts of the JSON, and the binary outputs in the order of the response.

    Args:
        head: the JSON of the request.
        model: the model's name.
        response: the controller's response.
        payload: the bytes of all outputs.
        batched: whether the first dimension of the outputs is the batch dimension.
        max_json: largest size of the JSON, in bytes.

    Raises:
        InvalidRequestError: an output cannot be sent in the requested form, or its JSON is too large.
    """
    wanted = {output.name: output for output in head.outputs}
    default = head.parameters.get("binary_data_output") is True
    binary: list[Any] = []
    view = memoryview(b"" if payload is None else payload)
    at = 0
    content: dict[str, Any] = {"model_name": model, "model_version": response.version}
    if request_id := head.id or response.request_id:
        content["id"] = request_id
    content["parameters"] = response_parameters(response)
    outputs: list[tuple[dict[str, Any], TensorSpec, Any]] = []  #: description, spec, and data for the JSON (or None)
    for original in response.outputs:
        spec = original
        data: Any = view[at : at + spec.nbytes]
        at += spec.nbytes
        output = wanted.get(spec.name)
        as_binary = default
        if output is not None:
            if output.parameters.classification is not None:
                _check_size(spec, 2 * prod(spec.shape), max_json)
                spec, data = yield from classified(spec, data, output.parameters.classification, batched)
            if output.parameters.binary_data is not None:
                as_binary = output.parameters.binary_data
        described: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
        if as_binary:
            described["parameters"] = {"binary_data_size": spec.nbytes}
            binary.append(data)
            data = None
        outputs.append((described, spec, data))
    if binary and sum(map(len, binary)) == len(view) and all(isinstance(part, memoryview) for part in binary):
        binary = [view]
    if all(data is None or is_short(spec) for _, spec, data in outputs):
        content["outputs"] = [_whole(*output) for output in outputs]
        return [_encode(content)], binary
    json = _Json(max_json)
    json.add(_encode(content)[:-1])
    json.add(b',"outputs":[')
    for number, (described, spec, data) in enumerate(outputs):
        if number:
            json.add(b",")
        yield from _add_output(json, described, spec, data)
    json.add(b"]}")
    return json.parts(), binary


def response_parameters(response: InferResponse) -> dict[str, Any]:
    """Return the parameters of a response: predicted completion, timing and batch size. Times are in milliseconds."""
    timing = response.timing
    parameters: dict[str, Any] = {}
    if response.predicted is not None:
        parameters["predicted_ms"] = response.predicted / MILLISECOND
    parameters["queue_ms"] = timing.queue / MILLISECOND
    parameters["load_ms"] = timing.load / MILLISECOND
    parameters["exec_ms"] = timing.exec / MILLISECOND
    parameters["total_ms"] = timing.total / MILLISECOND
    parameters["batch_size"] = timing.batch_size
    parameters["cold_start"] = timing.cold_start
    return parameters


class _Json:
    """A JSON text that is built from many pieces. Small pieces are joined into larger parts."""

    def __init__(self, limit: Bytes) -> None:
        self._limit = limit
        self._size: Bytes = 0
        self._parts: list[bytes] = []
        self._pieces: list[bytes] = []
        self._joined: Bytes = 0

    def add(self, text: bytes) -> None:
        self._pieces.append(text)
        self._size += len(text)
        self._joined += len(text)
        if self._joined > SLICE:
            self._parts.append(b"".join(self._pieces))
            self._pieces, self._joined = [], 0

    def check(self, spec: TensorSpec, more: Bytes) -> None:
        """Check that ``more`` bytes can be added to the text.

        Raises:
            InvalidRequestError: the text would exceed the limit.
        """
        _check_size(spec, self._size + more, self._limit)

    def parts(self) -> list[bytes]:
        return [*self._parts, b"".join(self._pieces)]


def _check_size(spec: TensorSpec, size: Bytes, limit: Bytes) -> None:
    """Check the size of the JSON of a response that includes the output ``spec``.

    Raises:
        InvalidRequestError: the JSON would exceed the limit.
    """
    if size > limit:
        raise InvalidRequestError(
            f"output {spec.name!r} makes the response exceed the limit of {show_bytes(limit)} of JSON; "
            "request it with binary_data, request all outputs with binary_data_output, or raise --max-json"
        )


def _whole(described: dict[str, Any], spec: TensorSpec, data: Any) -> dict[str, Any]:
    """Return the description of an output, and add its elements unless ``data`` is None."""
    if data is not None:
        described["data"] = next(json_slices(spec, memoryview(data)), ())
    return described


def _add_output(json: _Json, described: dict[str, Any], spec: TensorSpec, data: Any) -> Steps[None]:
    """Add an output to the JSON. The output's elements are added in slices."""
    if data is None:
        json.add(_encode(described))
        return
    elements = prod(spec.shape)
    # The smallest possible size of the elements is checked first.
    json.check(spec, spec.nbytes - 2 * elements if spec.datatype == Datatype.BYTES else 2 * elements)
    json.add(_encode(described)[:-1])
    before = b',"data":['
    for values in json_slices(spec, memoryview(data)):
        if before == b",":
            yield
        json.add(before)
        json.add(_encode(values)[1:-1])
        json.check(spec, 0)
        before = b","
    json.add(b"]}" if before == b"," else b',"data":[]}')
