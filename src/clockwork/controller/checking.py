"""Checks the limits that apply to every InferRequest, whatever its protocol and model."""

from clockwork.controller.quota import input_bytes
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferRequest
from clockwork.messages.tensors import MAX_TENSORS, check_name, check_specs
from clockwork.units import Bytes


def check_names(request: InferRequest) -> None:
    """Check the number and the names of tensors. This check comes first, because it does not need the tensors' sizes.

    Raises:
        InvalidRequestError: there are too many tensors, or a name is too long.
    """
    check_name("model", request.model)
    for what, names in (("input", [tensor.name for tensor in request.inputs]), ("output", request.outputs)):
        if len(names) > MAX_TENSORS:
            raise InvalidRequestError(f"request has {len(names)} {what}s; at most {MAX_TENSORS} are accepted")
        for name in names:
            check_name(what, name)


def check_infer(request: InferRequest, payload_bytes: Bytes, max_bytes: Bytes) -> None:
    """Check counts, names and sizes.

    ``payload_bytes`` is the length of the payload. ``max_bytes`` is the limit of the inputs' size.

    Raises:
        InvalidRequestError: there are too many tensors, a name is too long, or sizes do not add up or are too large.
    """
    check_names(request)
    if request.generated:
        nbytes = input_bytes(request)
        check_specs(request.inputs, nbytes)
        if payload_bytes:
            raise InvalidRequestError(f"request with generated inputs has {payload_bytes} bytes of data; remove it")
        _check_size(nbytes, max_bytes)
    else:
        _check_size(payload_bytes, max_bytes)
        check_specs(request.inputs, payload_bytes)


def _check_size(nbytes: Bytes, max_bytes: Bytes) -> None:
    if nbytes > max_bytes:
        raise InvalidRequestError(f"the inputs take {nbytes} bytes; at most {max_bytes} are accepted")
