"""Implements Triton's classification extension.

The extension replaces an output with the largest elements of each of its rows.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from clockwork.messages.requests import InferResponse
from clockwork.messages.tensors import TensorSpec
from clockwork.oip.elements import classified
from clockwork.steps import Steps


def with_classes(
    response: InferResponse, payload: Any, classes: Mapping[str, int], batched: bool
) -> Steps[tuple[InferResponse, bytes]]:
    """Return a response and its payload in which the requested classes replace the elements of outputs.

    Args:
        response: a successful response.
        payload: the bytes of all outputs.
        classes: the number of classes for each output, by the output's name.
        batched: whether the first dimension of the outputs is the batch dimension.

    Raises:
        InvalidRequestError: an output is not numeric, or a number of classes is less than 1 or too large.
    """
    view = memoryview(b"" if payload is None else payload)
    specs: list[TensorSpec] = []
    parts: list[Any] = []
    at = 0
    for original in response.outputs:
        spec = original
        data: Any = view[at : at + spec.nbytes]
        at += spec.nbytes
        if spec.name in classes:
            spec, data = yield from classified(spec, data, classes[spec.name], batched)
        specs.append(spec)
        parts.append(data)
    return replace(response, outputs=tuple(specs)), b"".join(parts)
