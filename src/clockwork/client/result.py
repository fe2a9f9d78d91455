"""The result of an inference: its outputs and its timing."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockwork.arrays import from_payload
from clockwork.messages.requests import InferResponse, RequestTiming
from clockwork.messages.tensors import TensorSpec
from clockwork.units import as_seconds


class InferenceResult(Mapping[str, NDArray[Any]]):
    """The outputs of an inference as numpy arrays, by name.

    Each access to an output creates a new array, which is a read-only view of the received bytes.

    ``timing`` contains the controller's measurements of how long the request waited and how long it was executed.
    ``predicted`` is the predicted completion, in seconds after the request's arrival. ``predicted`` is None if the
    controller made no prediction. ``version`` is the number of the version that executed the request.
    ``request_id`` is the id under which the server has recorded the request.
    """

    def __init__(self, model: str, response: InferResponse, payload: Any) -> None:
        """Create a result from a server's response.

        ``payload`` contains the elements of all outputs, one output after the other.
        """
        self.model = model
        self.version = response.version
        self.request_id = response.request_id
        self._outputs: dict[str, tuple[TensorSpec, memoryview]] = {}
        view = memoryview(payload) if payload is not None else memoryview(b"")
        offset = 0
        for spec in response.outputs:
            self._outputs[spec.name] = (spec, view[offset : offset + spec.nbytes])
            offset += spec.nbytes
        self.timing: RequestTiming = response.timing
        self.predicted = None if response.predicted is None else as_seconds(response.predicted)

    def __getitem__(self, name: str) -> NDArray[Any]:
        spec, payload = self._outputs[name]
        return np.asarray(from_payload(spec, payload))

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        outputs = ", ".join(spec.describe() for spec, _ in self._outputs.values())
        return f"<InferenceResult of {self.model}: {outputs}>"
