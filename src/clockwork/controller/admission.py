"""Checks whether a client's InferRequest fits the model: its outputs, inputs, batch size and SLO."""

from typing import Final

from clockwork.controller.config import ControllerConfig
from clockwork.errors import InvalidRequestError
from clockwork.messages.explanation import MODEL_DEFAULT, NATIVE_FACTOR, NATIVE_SLO, SERVER_DEFAULT
from clockwork.messages.requests import InferRequest
from clockwork.messages.tensors import Datatype, TensorInfo, TensorSpec
from clockwork.state import ModelState
from clockwork.units import Nanos, show_duration

MAX_KNOWN_INPUTS: Final = 4096
"""Limit of the combinations of model and input specs that are remembered as checked."""


class Admission:
    """Checks inputs, and computes the batch size and the SLO of a request."""

    def __init__(self, config: ControllerConfig) -> None:
        """``config`` contains the limits."""
        self._config = config
        #: batch sizes of inputs that were found correct
        self._batch_sizes: dict[tuple[str, tuple[TensorSpec, ...]], int] = {}

    def batch_size(self, model: ModelState, request: InferRequest) -> int:
        """Return the number of rows that the request adds to a batch, at least 1.

        Raises:
            InvalidRequestError: the model does not take these inputs, or has no output with a requested name.
        """
        if request.outputs:
            known = [info.name for info in model.info.outputs]
            for name in request.outputs:
                if name not in known:
                    raise InvalidRequestError(
                        f"output {name!r} is unknown; model {model.served_as} has {', '.join(known)}"
                    )
        key = (model.name, request.inputs)
        batch_size = self._batch_sizes.get(key)
        if batch_size is None:
            batch_size = _check_inputs(model, request.inputs)
            if len(self._batch_sizes) >= MAX_KNOWN_INPUTS:
                self._batch_sizes.clear()
            self._batch_sizes[key] = batch_size
        return batch_size

    def forget(self, model: str) -> None:
        """Forget which inputs of the model were found correct.

        Call this method when the model was removed, or when its measured batch sizes have changed.
        """
        for key in [key for key in self._batch_sizes if key[0] == model]:
            del self._batch_sizes[key]

    def slo(self, model: ModelState, request: InferRequest) -> Nanos:
        """Return the SLO of the request, or the model's default SLO if the request sets none.

        Raises:
            InvalidRequestError: the SLO is zero, negative, not a number, or longer than the limit.
        """
        slo = request.slo
        if request.slo_factor is not None:
            factor = request.slo_factor
            if not 0 < factor < float("inf"):
                raise InvalidRequestError(f"slo_factor is {factor}; it must be a positive number")
            by_factor = round(min(factor * model.infer_estimate(1), float(self._config.max_slo)))
            slo = by_factor if slo is None else min(slo, by_factor)
        if slo is None:
            slo = self.default_slo(model)
        if slo <= 0:
            raise InvalidRequestError(f"slo is {show_duration(slo)}; it must be positive")
        if slo > self._config.max_slo:
            limit = show_duration(self._config.max_slo)
            raise InvalidRequestError(f"slo is {show_duration(slo)}; the limit is {limit}")
        return slo

    def source(self, request: InferRequest, slo: Nanos) -> str:
        """Return where the SLO of a request came from: a key of `SLO_SOURCES`, or empty for a default."""
        if request.slo is None:
            return "" if request.slo_factor is None else NATIVE_FACTOR
        if request.slo != slo:
            return NATIVE_FACTOR
        return request.slo_source or NATIVE_SLO

    def default_source(self, model: ModelState) -> str:
        """Return the key of `SLO_SOURCES` for the requests of a model that set no SLO."""
        return MODEL_DEFAULT if self._model_slo(model) is not None else SERVER_DEFAULT

    def default_slo(self, model: ModelState) -> Nanos:
        """Return the SLO of the model's requests that set no SLO."""
        slo = self._model_slo(model)
        return self._config.default_slo if slo is None else slo

    def _model_slo(self, model: ModelState) -> Nanos | None:
        known = self._config.model_slos
        names = (model.served_as, model.name, model.info.load)
        return next((known[name] for name in names if name in known), None)


def _check_inputs(model: ModelState, inputs: tuple[TensorSpec, ...]) -> int:
    expected = {info.name: info for info in model.info.inputs}
    wants = f"model {model.served_as} takes " + ", ".join(info.describe() for info in model.info.inputs)
    for tensor in inputs:
        info = expected.pop(tensor.name, None)
        if info is None:
            raise InvalidRequestError(f"input {tensor.name!r} is unknown; {wants}")
        _check_input(tensor, info, wants)
    missing = [name for name, info in expected.items() if not info.optional]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise InvalidRequestError(f"input {', '.join(map(repr, missing))} {verb} missing; {wants}")
    if not model.info.batchable:
        return 1
    sizes = {tensor.shape[0] for tensor in inputs if tensor.name not in model.optional}
    if len(sizes) != 1:
        raise InvalidRequestError(
            f"inputs have different batch dimensions: {sorted(sizes)}; the first dimensions must be equal"
        )
    batch_size = sizes.pop()
    if not 1 <= batch_size <= model.max_rows:
        takes = "1 row" if model.max_rows == 1 else f"1 to {model.max_rows} rows"
        raise InvalidRequestError(
            f"request has {batch_size} rows; model {model.served_as} takes {takes} in one request"
        )
    return batch_size


def _check_input(tensor: TensorSpec, info: TensorInfo, wants: str) -> None:
    if tensor.datatype != info.datatype:
        known = tensor.datatype if tensor.datatype in list(Datatype) else repr(tensor.datatype)
        raise InvalidRequestError(f"input {tensor.name!r} has datatype {known}; {wants}")
    fits = len(tensor.shape) == len(info.shape) and all(
        want == got or (want == -1 and got >= 0) for want, got in zip(info.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise InvalidRequestError(f"input {tensor.name!r} has shape {list(tensor.shape)}; {wants}")
