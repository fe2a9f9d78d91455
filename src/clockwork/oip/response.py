"""The body of the answer to an inference request: JSON, and behind it the outputs that are wanted binary.

When all outputs are binary and in the payload's order, the payload goes out as it came in. JSON is written in slices
and has a limit.
"""

from math import prod
from typing import Any

import msgspec

from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferResponse
from clockwork.messages.tensors import Datatype, TensorSpec
from clockwork.oip.binary import DEFAULT_MAX_JSON, InferHead
from clockwork.oip.elements import SLICE, classified, is_short, json_slices
from clockwork.oip.metadata import VERSION
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
    """The JSON in parts, and what follows it, if anything, in order.

    Raises:
        InvalidRequestError: an output cannot be given in the form in which it is wanted, or takes too much JSON.
    """
    wanted = {output.name: output for output in head.outputs}
    default = head.parameters.get("binary_data_output") is True
    binary: list[Any] = []
    view = memoryview(b"" if payload is None else payload)
    at = 0
    said: dict[str, Any] = {"model_name": model, "model_version": VERSION}
    if head.id:
        said["id"] = head.id
    said["parameters"] = response_parameters(response)
    outputs: list[tuple[dict[str, Any], TensorSpec, Any]] = []  #: what is said of each, and data for JSON or None
    for given in response.outputs:
        spec = given
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
        made: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
        if as_binary:
            made["parameters"] = {"binary_data_size": spec.nbytes}
            binary.append(data)
            data = None
        outputs.append((made, spec, data))
    if binary and sum(map(len, binary)) == len(view) and all(isinstance(part, memoryview) for part in binary):
        binary = [view]
    if all(data is None or is_short(spec) for _, spec, data in outputs):
        said["outputs"] = [_whole(*output) for output in outputs]
        return [_encode(said)], binary
    json = _Json(max_json)
    json.add(_encode(said)[:-1])
    json.add(b',"outputs":[')
    for number, (made, spec, data) in enumerate(outputs):
        if number:
            json.add(b",")
        yield from _add_output(json, made, spec, data)
    json.add(b"]}")
    return json.parts(), binary


def response_parameters(response: InferResponse) -> dict[str, Any]:
    """What Clockwork knows of the request that was answered; times in milliseconds."""
    timing = response.timing
    made: dict[str, Any] = {}
    if response.predicted is not None:
        made["predicted_ms"] = response.predicted / MILLISECOND
    made["queue_ms"] = timing.queue / MILLISECOND
    made["load_ms"] = timing.load / MILLISECOND
    made["exec_ms"] = timing.exec / MILLISECOND
    made["total_ms"] = timing.total / MILLISECOND
    made["batch_size"] = timing.batch_size
    made["cold_start"] = timing.cold_start
    return made


class _Json:
    """Text in parts that are joined while they are small."""

    def __init__(self, most: Bytes) -> None:
        self._most = most
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
        """Whether so many bytes more may be added; see `_check_size`."""
        _check_size(spec, self._size + more, self._most)

    def parts(self) -> list[bytes]:
        return [*self._parts, b"".join(self._pieces)]


def _check_size(spec: TensorSpec, size: Bytes, most: Bytes) -> None:
    """Whether the JSON may have that many bytes with an output.

    Raises:
        InvalidRequestError: it may not.
    """
    if size > most:
        raise InvalidRequestError(
            f"output {spec.name!r} takes the response beyond {show_bytes(most)} of JSON; that is the limit: "
            "request it with binary_data, or all with binary_data_output, or raise --max-json"
        )


def _whole(made: dict[str, Any], spec: TensorSpec, data: Any) -> dict[str, Any]:
    """An output with its elements, if they are wanted in JSON."""
    if data is not None:
        made["data"] = next(json_slices(spec, memoryview(data)), ())
    return made


def _add_output(json: _Json, made: dict[str, Any], spec: TensorSpec, data: Any) -> Steps[None]:
    """An output, its elements in slices."""
    if data is None:
        json.add(_encode(made))
        return
    elements = prod(spec.shape)
    json.check(spec, spec.nbytes - 2 * elements if spec.datatype == Datatype.BYTES else 2 * elements)  # at least
    json.add(_encode(made)[:-1])
    before = b',"data":['
    for values in json_slices(spec, memoryview(data)):
        if before == b",":
            yield
        json.add(before)
        json.add(_encode(values)[1:-1])
        json.check(spec, 0)
        before = b","
    json.add(b"]}" if before == b"," else b',"data":[]}')
