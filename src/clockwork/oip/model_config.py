"""The configuration of a model in Triton's format.

The configuration has every field that Triton prints for an ONNX model, including fields with default values. Some
clients need fields such as ``optional`` and ``format``. The keys of the dict are the field names of Triton's message
ModelConfig. The HTTP front end sends the dict as JSON, and the gRPC front end converts it to a message.
"""

from typing import Any, Final

from clockwork.messages.requests import ModelSummary
from clockwork.messages.tensors import Datatype, TensorInfo

PLATFORM: Final = "onnxruntime_onnx"
"""Triton's platform name for ONNX models that ONNX Runtime executes."""

BACKEND: Final = "onnxruntime"
"""Triton's backend name for ONNX Runtime."""

_TYPES: Final = {Datatype.BYTES: "TYPE_STRING"}


def model_config(model: ModelSummary) -> dict[str, Any]:
    """Return a model's configuration.

    Shapes do not include the batch dimension. Optional inputs have no batch dimension.

    ``format`` is always FORMAT_NONE, because a model's file does not define which dimension contains the channels.
    """
    batch = model.max_batch_size if model.batchable else 0
    config: dict[str, Any] = {
        "name": model.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": batch,
        "input": [_input(info, model.batchable) for info in model.inputs],
        "output": [_output(info, model.batchable) for info in model.outputs],
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
        "instance_group": [
            {
                "name": model.name,
                "kind": "KIND_AUTO",
                "count": 1,
                "gpus": [],
                "secondary_devices": [],
                "profile": [],
                "passive": False,
                "host_policy": "",
            }
        ],
        "default_model_filename": "model.onnx",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    }
    if batch > 1:
        config["dynamic_batching"] = {
            "preferred_batch_size": [batch],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": False,
            "priority_levels": 0,
            "default_priority_level": 0,
            "priority_queue_policy": {},
        }
    return config


def _input(info: TensorInfo, batched: bool) -> dict[str, Any]:
    return {
        **_tensor(info, batched),
        "format": "FORMAT_NONE",
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": info.optional,
        "is_non_linear_format_io": False,
    }


def _output(info: TensorInfo, batched: bool) -> dict[str, Any]:
    return {
        **_tensor(info, batched),
        "label_filename": "",
        "is_shape_tensor": False,
        "is_non_linear_format_io": False,
    }


def _tensor(info: TensorInfo, batched: bool) -> dict[str, Any]:
    kind = _TYPES.get(info.datatype) or f"TYPE_{info.datatype}"  # type: ignore[call-overload]
    dims = info.shape[1:] if batched and not info.optional else info.shape
    return {"name": info.name, "data_type": kind, "dims": dims}
