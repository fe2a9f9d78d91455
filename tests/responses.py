"""Executes single requests on models of ONNX Runtime."""

from typing import Any

import numpy as np

from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import TensorSpec
from clockwork.runtimes.onnx.model import OnnxModel


def response(host: OnnxModel, x: Any) -> Any:
    """Return the elements of the output for one float32 input called x."""
    infer_input = InferInput(1, len(x), (TensorSpec("x", "FP32", x.shape, x.nbytes),))
    loaded = host.load_weights(0)
    ((_, (buffer,)),) = loaded.split([infer_input], loaded.execute(loaded.assemble([infer_input], [x.tobytes()])))
    return np.frombuffer(buffer, np.float32)
