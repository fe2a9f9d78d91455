"""Makes one inference through the interface of a runtime, as a worker does."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clockwork.arrays import dtype_of
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import TensorSpec
from clockwork.runtimes.base import LoadedModel


def ask(loaded: LoadedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of the outputs by name. Copies are needed, because the next inference overwrites the outputs."""
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    specs = tuple(TensorSpec(name, "FP32", array.shape, array.nbytes) for name, array in arrays.items())
    share = InferInput(1, len(next(iter(arrays.values()))), specs)
    batch = loaded.assemble([share], [b"".join(array.tobytes() for array in arrays.values())])
    ((outputs, buffers),) = loaded.split([share], loaded.execute(batch))
    return {
        spec.name: np.frombuffer(bytes(buffer), dtype_of(spec.datatype)).reshape(spec.shape)
        for spec, buffer in zip(outputs, buffers, strict=True)
    }
