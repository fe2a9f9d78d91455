"""What the Open Inference Protocol and Triton's extensions say of a server and its models.

Rules of the file: nothing is said that is not known; a count that nobody keeps is 0.
"""

from typing import Any, Final

from msgspec import Struct

from clockwork.messages.requests import ModelStatus, ModelSummary, RequestTiming, ServerStatus
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.units import Nanos

VERSION: Final = "1"
"""Every model has this one version."""

EXTENSIONS: Final = ("classification", "model_configuration", "model_repository", "statistics", "binary_tensor_data")
"""Triton's names of what is served beside the protocol itself."""

PLATFORM: Final = "onnxruntime_onnx"
"""Triton's name for ONNX models on ONNX Runtime."""

BACKEND: Final = "onnxruntime"
"""Triton's name of that runtime."""

_CONFIG_TYPES: Final = {Datatype.BYTES: "TYPE_STRING"}


class Sums(Struct):
    """Where the time of a model's successful requests went, as far as a front end saw them."""

    count: int = 0
    total: Nanos = 0
    queue: Nanos = 0
    exec: Nanos = 0

    def add(self, timing: RequestTiming) -> None:
        """One more."""
        self.count += 1
        self.total += timing.total
        self.queue += timing.queue
        self.exec += timing.exec


def server_metadata(version: str) -> dict[str, Any]:
    """Of ``GET /v2``."""
    return {"name": "clockwork", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(model: ModelSummary) -> dict[str, Any]:
    """Of ``GET /v2/models/NAME``."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_tensor(info) for info in model.inputs],
        "outputs": [_tensor(info) for info in model.outputs],
    }


def model_config(model: ModelSummary) -> dict[str, Any]:
    """Triton's model configuration, as far as it is true of Clockwork; shapes are without the batch dimension."""
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": model.max_batch_size if model.batchable else 0,
        "input": [_config_tensor(info, model.batchable) for info in model.inputs],
        "output": [_config_tensor(info, model.batchable) for info in model.outputs],
        "version_policy": {"latest": {"num_versions": 1}},
    }


def model_statistics(model: ModelStatus, sums: Sums) -> dict[str, Any]:
    """Triton's statistics: requests in time are successes, all others failures; executions are batches.

    Counts are of all the model's requests, times of those in ``sums``.
    """
    infer = model.predictions.get("infer")
    unknown = {"count": 0, "ns": 0}
    return {
        "name": model.info.name,
        "version": VERSION,
        "last_inference": 0,
        "inference_count": model.in_time,
        "execution_count": infer.duration.count if infer is not None else 0,
        "inference_stats": {
            "success": {"count": model.in_time, "ns": sums.total},
            "fail": {"count": model.late + model.refused + model.failed, "ns": 0},
            "queue": {"count": sums.count, "ns": sums.queue},
            "compute_input": unknown,
            "compute_infer": {"count": sums.count, "ns": sums.exec},
            "compute_output": unknown,
            "cache_hit": unknown,
            "cache_miss": unknown,
        },
        "batch_stats": [],
    }


def repository_index(server: ServerStatus, serving: bool, ready_only: bool) -> list[dict[str, Any]]:
    """Every model that was loaded, with its state; ordered by name."""
    broken = server.broken
    names = {model.info.name: model.info for model in server.models}
    made = [_index_entry(name, broken.get(name, ""), serving) for name in sorted({**names, **broken})]
    return [entry for entry in made if entry["state"] == "READY" or not ready_only]


def _index_entry(name: str, reason: str, serving: bool) -> dict[str, Any]:
    state = "UNAVAILABLE" if reason else "READY" if serving else "LOADING"
    return {"name": name, "version": VERSION, "state": state, "reason": reason}


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": info.datatype, "shape": info.shape}


def _config_tensor(info: TensorInfo, batched: bool) -> dict[str, Any]:
    kind = _CONFIG_TYPES.get(info.datatype) or f"TYPE_{info.datatype}"  # type: ignore[call-overload]
    return {"name": info.name, "data_type": kind, "dims": info.shape[1:] if batched else info.shape}
