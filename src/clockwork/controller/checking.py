"""Checks what every InferRequest must keep to, of whatever protocol and model, before anything is done for it."""

from clockwork.controller.quota import input_bytes
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferRequest
from clockwork.messages.tensors import MAX_TENSORS, check_name, check_specs
from clockwork.units import Bytes


def check_infer(request: InferRequest, payload_bytes: Bytes, max_bytes: Bytes) -> None:
    """Check counts, names and sizes; ``payload_bytes`` came with the request, ``max_bytes`` its inputs may take.

    Raises:
        InvalidRequestError: there are too many tensors, a name is too long, or sizes do not add up or are too large.
    """
    check_name("model", request.model)
    if len(request.outputs) > MAX_TENSORS:
        raise InvalidRequestError(f"{len(request.outputs)} outputs; at most {MAX_TENSORS} are accepted")
    for name in request.outputs:
        check_name("output", name)
    if request.generated:
        check_specs(request.inputs, wanted := input_bytes(request))
        if payload_bytes or wanted > max_bytes:
            raise InvalidRequestError(
                f"generated inputs come without data and take at most {max_bytes} bytes; "
                f"these came with {payload_bytes} and take {wanted}"
            )
    elif payload_bytes > max_bytes:
        raise InvalidRequestError(f"the inputs take {payload_bytes} bytes; at most {max_bytes} are accepted")
    else:
        check_specs(request.inputs, payload_bytes)
