"""Metadata and statistics of the server and its models, in the form that the Open Inference Protocol and Triton define.

Every function returns dicts whose keys are the protocol's field names. The HTTP front end sends the dicts as JSON, and
the gRPC front end converts them to messages. If Clockwork does not measure a count, its value is 0.
"""

from collections.abc import Iterable
from typing import Any, Final

from clockwork.messages.counts import in_time
from clockwork.messages.requests import ModelStatus, ModelSummary
from clockwork.messages.tensors import TensorInfo
from clockwork.oip.model_config import PLATFORM
from clockwork.units import MILLISECOND, Nanos

EXTENSIONS: Final = (
    "model_repository",
    "model_configuration",
    "statistics",
    "parameters",
    "classification",
    "logging",
)
"""The extensions that both transports serve, by the names that Triton gives them."""

HTTP_EXTENSIONS: Final = ("binary_tensor_data",)
"""The extensions that only HTTP serves, by Triton's names. gRPC needs no extension for binary tensors."""


def server_metadata(version: str, extensions: Iterable[str] = ()) -> dict[str, Any]:
    """Return the server's name, version and extensions.

    ``extensions`` are additional extensions that only this transport has.
    """
    return {"name": "clockwork", "version": version, "extensions": [*EXTENSIONS, *extensions]}


def model_metadata(model: ModelSummary, versions: Iterable[str]) -> dict[str, Any]:
    """Return the names, datatypes and shapes of a model's inputs and outputs. A free dimension is -1.

    ``versions`` are all versions of the model that are served.
    """
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [_tensor(info) for info in model.inputs],
        "outputs": [_tensor(info) for info in model.outputs],
    }


def model_statistics(model: ModelStatus, epoch: Nanos) -> dict[str, Any]:
    """Return Triton's statistics of a model. The statistics include the requests of all protocols.

    A request that is answered in time counts as a success. All other requests count as failures. The number of
    executions is the number of batches. Each duration is a sum over all successful requests; in ``batch_stats``, it is
    a sum over all batches. ``response_stats`` and ``memory_usage`` are empty. Triton also leaves both fields empty if a
    model sends one response per request and the backend does not report its memory.

    Args:
        model: the model and its counts.
        epoch: nanoseconds from 1970 to the zero of the controller's clock.
    """
    counts = model.counts
    done = in_time(counts.answers)
    return {
        "name": model.info.name,
        "version": model.info.version,
        "last_inference": (epoch + counts.last_success) // MILLISECOND if counts.last_success else 0,
        "inference_count": counts.rows,
        "execution_count": counts.batches,
        "inference_stats": {
            "success": _duration(done, counts.succeeded_ns),
            "fail": _duration(sum(counts.answers.values()) - done, counts.failed_ns),
            "queue": _duration(done, counts.queue_ns),
            "compute_input": _duration(done, counts.input_ns),
            "compute_infer": _duration(done, counts.exec_ns),
            "compute_output": _duration(done, counts.output_ns),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [
            {
                "batch_size": batch.batch_size,
                "compute_input": _duration(batch.count, batch.input_ns),
                "compute_infer": _duration(batch.count, batch.exec_ns),
                "compute_output": _duration(batch.count, batch.output_ns),
            }
            for batch in counts.by_batch_size
        ],
        "response_stats": {},
        "memory_usage": [],
    }


NO_WORKER: Final = "no connected worker can serve it"
"""Reason why a served model is not ready."""


def index_entry(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    """Return an entry of the repository index. A model that was never loaded has no version."""
    entry = {"name": name, "version": version, "state": state, "reason": reason}
    if not version:
        del entry["version"]
    return entry


def _duration(count: int, ns: Nanos) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _tensor(info: TensorInfo) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": info.name, "datatype": info.datatype, "shape": info.shape}
    return {**tensor, "optional": True} if info.optional else tensor
