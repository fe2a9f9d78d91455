"""What the Open Inference Protocol and Triton's extensions say of a server and its models.

Rules of the file: nothing is said that is not known; a count that nobody keeps is 0. What is said is made of dicts with
the names of the protocol's fields: JSON over HTTP, and what messages are made from over gRPC.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from clockwork.messages.counts import in_time
from clockwork.messages.requests import ModelStatus, ModelSummary
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.oip.contract import Failure, failure
from clockwork.units import MILLISECOND, Nanos

VERSION: Final = "1"
"""Every model has this one version."""

EXTENSIONS: Final = ("model_repository", "model_configuration", "statistics", "parameters")
"""Triton's names of what is served beside the protocol itself, whatever the transport."""

EXTENSIONS_OF_HTTP: Final = ("classification", "binary_tensor_data")
"""And what is served over HTTP only: gRPC's tensors are binary in any case."""

PLATFORM: Final = "onnxruntime_onnx"
"""Triton's name for ONNX models on ONNX Runtime."""

BACKEND: Final = "onnxruntime"
"""Triton's name of that runtime."""

SHOWN: Final = 80
"""Characters of what a client wrote that are repeated to it."""

_CONFIG_TYPES: Final = {Datatype.BYTES: "TYPE_STRING"}


def server_metadata(version: str, *more: str) -> dict[str, Any]:
    """What the server is; ``more``: extensions of the transport."""
    return {"name": "clockwork", "version": version, "extensions": [*EXTENSIONS, *more]}


def model_metadata(model: ModelSummary) -> dict[str, Any]:
    """Names, datatypes and shapes of inputs and outputs; -1 is a free dimension."""
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


def model_statistics(model: ModelStatus, epoch: Nanos) -> dict[str, Any]:
    """Triton's statistics, of all protocols: requests in time are successes, all others failures.

    Executions are batches. Durations are of successes, once for each request; those in ``batch_stats`` are of batches,
    once for each. ``epoch``: when the controller's clock was at zero, in nanoseconds since 1970.
    """
    counts = model.counts
    done = in_time(counts.answers)
    return {
        "name": model.info.name,
        "version": VERSION,
        "last_inference": (epoch + counts.last_success) // MILLISECOND if counts.last_success else 0,
        "inference_count": counts.rows,
        "execution_count": counts.batches,
        "inference_stats": {
            "success": _took(done, counts.succeeded_ns),
            "fail": _took(sum(counts.answers.values()) - done, counts.failed_ns),
            "queue": _took(done, counts.queue_ns),
            "compute_input": _took(done, counts.input_ns),
            "compute_infer": _took(done, counts.exec_ns),
            "compute_output": _took(done, counts.output_ns),
            "cache_hit": _took(0, 0),
            "cache_miss": _took(0, 0),
        },
        "batch_stats": [
            {
                "batch_size": batch.batch_size,
                "compute_input": _took(batch.count, batch.input_ns),
                "compute_infer": _took(batch.count, batch.exec_ns),
                "compute_output": _took(batch.count, batch.output_ns),
            }
            for batch in counts.by_batch_size
        ],
    }


NO_DEVICE: Final = "no worker that can serve it answers"
"""Why a model that is served is not ready."""


def repository_index(
    models: Iterable[str],
    broken: Mapping[str, str],
    is_ready: Callable[[str], bool],
    stage: str,
    serving: bool,
    ready_only: bool,
) -> Iterator[dict[str, Any]]:
    """Every model that was loaded, with its state and, unless that is READY, why; ordered by name.

    ``broken``: models that are not served, and why. ``is_ready`` says whether a model could answer now, when its entry
    is made. ``stage``: of the server.
    """
    absent = ("UNAVAILABLE", NO_DEVICE) if serving else ("LOADING", f"the server is {stage}")
    why_broken = dict(broken)
    for name in sorted({*models, *why_broken}):
        if name in why_broken:
            state, reason = "UNAVAILABLE", why_broken[name]
        else:
            state, reason = ("READY", "") if is_ready(name) else absent
        if state == "READY" or not ready_only:
            yield {"name": name, "version": VERSION, "state": state, "reason": reason}


def unknown_version(model: str, version: str) -> Failure | None:
    """What a client is told that asks for another version than the one there is; none is that one."""
    if version in ("", VERSION):
        return None
    message = f"model {model[:SHOWN]!r} has version {VERSION!r} only, and no {version[:SHOWN]!r}"
    return failure(Status.UNKNOWN_MODEL, message)


def _took(count: int, ns: Nanos) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": info.datatype, "shape": info.shape}


def _config_tensor(info: TensorInfo, batched: bool) -> dict[str, Any]:
    kind = _CONFIG_TYPES.get(info.datatype) or f"TYPE_{info.datatype}"  # type: ignore[call-overload]
    return {"name": info.name, "data_type": kind, "dims": info.shape[1:] if batched else info.shape}
