"""Checks a client's InferRequest against the model, before anything is done for it.

Rules of the file: it answers whose fault it is in words that name what was asked, what was found, and what to do.
"""

from typing import Final

from clockwork.controller.config import ControllerConfig
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import InferRequest
from clockwork.messages.tensors import Datatype, TensorInfo, TensorSpec
from clockwork.state import ModelState
from clockwork.units import Nanos, show_duration

REMEMBERED: Final = 4096
"""Combinations of a model and its inputs' specs that were found right, remembered so as not to check them again."""


class Admission:
    """Checks inputs, and tells batch sizes and SLOs."""

    def __init__(self, config: ControllerConfig) -> None:
        """See `ControllerConfig` for the limits."""
        self._config = config
        self._right: dict[tuple[str, tuple[TensorSpec, ...]], int] = {}

    def batch_size(self, model: ModelState, request: InferRequest) -> int:
        """The request's rows in a batch, at least 1.

        Raises:
            InvalidRequestError: its inputs or wanted outputs are not the model's.
        """
        if request.outputs:
            known = [info.name for info in model.info.outputs]
            for name in request.outputs:
                if name not in known:
                    raise InvalidRequestError(f"model {model.name} has no output {name!r}; it has {', '.join(known)}")
        key = (model.name, request.inputs)
        batch_size = self._right.get(key)
        if batch_size is None:
            batch_size = _check_inputs(model, request.inputs)
            if len(self._right) >= REMEMBERED:
                self._right.clear()
            self._right[key] = batch_size
        return batch_size

    def slo(self, model: ModelState, request: InferRequest) -> Nanos:
        """The time within which the request wants its answer.

        Raises:
            InvalidRequestError: it is zero, negative, not a number, or longer than the longest accepted.
        """
        slo = request.slo
        if request.slo_factor is not None:
            factor = request.slo_factor
            if not 0 < factor < float("inf"):
                raise InvalidRequestError(f"slo_factor is {factor}; it must be a positive number")
            by_factor = round(min(factor * model.infer_estimate(1), float(self._config.max_slo)))
            slo = by_factor if slo is None else min(slo, by_factor)
        if slo is None:
            slo = self._default(model)
        if slo <= 0:
            raise InvalidRequestError(f"the slo is {show_duration(slo)}; it must be positive")
        if slo > self._config.max_slo:
            limit = show_duration(self._config.max_slo)
            raise InvalidRequestError(f"the slo is {show_duration(slo)}; at most {limit} is accepted")
        return slo

    def _default(self, model: ModelState) -> Nanos:
        known = self._config.model_slos
        return known.get(model.name) or known.get(model.info.load) or self._config.default_slo


def _check_inputs(model: ModelState, inputs: tuple[TensorSpec, ...]) -> int:
    expected = {info.name: info for info in model.info.inputs}
    wants = f"model {model.name} takes " + ", ".join(info.describe() for info in model.info.inputs)
    for tensor in inputs:
        info = expected.pop(tensor.name, None)
        if info is None:
            raise InvalidRequestError(f"unknown input {tensor.name!r}; {wants}")
        _check_input(tensor, info, wants)
    if expected:
        raise InvalidRequestError(f"missing input {', '.join(map(repr, expected))}; {wants}")
    if not model.info.batchable:
        return 1
    sizes = {tensor.shape[0] for tensor in inputs}
    if len(sizes) != 1:
        raise InvalidRequestError(f"the inputs differ in their first dimension, the batch: {sorted(sizes)}")
    batch_size = sizes.pop()
    if not 1 <= batch_size <= model.max_rows:
        raise InvalidRequestError(
            f"a batch of {batch_size}; model {model.name} takes 1 to {model.max_rows} rows in one request"
        )
    return batch_size


def _check_input(tensor: TensorSpec, info: TensorInfo, wants: str) -> None:
    if tensor.datatype != info.datatype:
        known = tensor.datatype if tensor.datatype in list(Datatype) else repr(tensor.datatype)
        raise InvalidRequestError(f"input {tensor.name!r} is {known}; {wants}")
    fits = len(tensor.shape) == len(info.shape) and all(
        want == got or (want == -1 and got >= 0) for want, got in zip(info.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise InvalidRequestError(f"input {tensor.name!r} has shape {list(tensor.shape)}; {wants}")
