"""Checks what every InferRequest must keep to, of whatever protocol and model, before anything is done for it."""

from clockwork.controller.quota import input_bytes
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferRequest
from clockwork.messages.tensors import MAX_TENSORS, check_name, check_specs
from clockwork.units import Bytes


def check_names(request: InferRequest) -> None:
    """Check counts and names, which are known before the sizes are.

    Raises:
        InvalidRequestError: there are too many tensors, or a name is too long.
    """
    check_name("model", request.model)
    for what, names in (("tensor", [it.name for it in request.inputs]), ("output", request.outputs)):
        if len(names) > MAX_TENSORS:
            raise InvalidRequestError(f"{len(names)} {what}s; at most {MAX_TENSORS} are accepted")
        for name in names:
            check_name(what, name)


def check_infer(request: InferRequest, payload_bytes: Bytes, max_bytes: Bytes) -> None:
    """Check counts, names and sizes; ``payload_bytes`` came with the request, ``max_bytes`` its inputs may take.

    Raises:
        InvalidRequestError: there are too many tensors, a name is too long, or sizes do not add up or are too large.
    """
    check_names(request)
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
