"""The body of the answer to an inference request: JSON, and behind it the outputs that are wanted binary.

Rules of the file: when all outputs are binary and in the payload's order, the payload goes out as it came in.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from clockwork.messages.requests import InferResponse
from clockwork.messages.tensors import TensorSpec
from clockwork.oip.binary import InferHead, OutputHead
from clockwork.oip.elements import classified, to_json
from clockwork.oip.metadata import VERSION
from clockwork.units import MILLISECOND

_encode = msgspec.json.Encoder().encode


def answer(
    head: InferHead, model: str, response: InferResponse, payload: Any, batched: bool
) -> tuple[bytes, list[Any]]:
    """The JSON, and what follows it, if anything, in order.

    Raises:
        InvalidRequestError: an output cannot be given in the form in which it is wanted.
    """
    wanted = {output.name: output for output in head.outputs}
    default = head.parameters.get("binary_data_output") is True
    outputs: list[dict[str, Any]] = []
    binary: list[Any] = []
    view = memoryview(b"" if payload is None else payload)
    at = 0
    for spec in response.outputs:
        data: Any = view[at : at + spec.nbytes]
        at += spec.nbytes
        outputs.append(_output(spec, data, wanted, default, batched, binary))
    if binary and sum(map(len, binary)) == len(view) and all(isinstance(part, memoryview) for part in binary):
        binary = [view]
    said: dict[str, Any] = {"model_name": model, "model_version": VERSION}
    if head.id:
        said["id"] = head.id
    said["parameters"] = told(response)
    said["outputs"] = outputs
    return _encode(said), binary


def told(response: InferResponse) -> dict[str, Any]:
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


def _output(
    spec: TensorSpec,
    data: Any,
    wanted: Mapping[str, OutputHead],
    default: bool,
    batched: bool,
    binary: list[Any],
) -> dict[str, Any]:
    output = wanted.get(spec.name)
    as_binary = default
    if output is not None:
        if output.parameters.classification is not None:
            spec, data = classified(spec, data, output.parameters.classification, batched)
        if output.parameters.binary_data is not None:
            as_binary = output.parameters.binary_data
    made: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    if as_binary:
        made["parameters"] = {"binary_data_size": spec.nbytes}
        binary.append(data)
    else:
        made["data"] = to_json(spec, memoryview(data))
    return made
