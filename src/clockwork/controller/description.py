"""The controller's state in the words of `clockwork.messages.requests`, for clients and people."""

from clockwork.controller.tally import Tally
from clockwork.messages.requests import (
    GPUStatus,
    ModelStatus,
    ModelSummary,
    Progress,
    ServerStatus,
    WorkerStatus,
)
from clockwork.state import ClockworkState, WorkerState
from clockwork.units import Nanos


def describe_models(state: ClockworkState) -> tuple[ModelSummary, ...]:
    """All models served, by name."""
    return tuple(
        ModelSummary(
            model.name,
            model.info.inputs,
            model.info.outputs,
            model.info.batchable,
            model.max_batch_size,
            model.info.weights_bytes,
        )
        for _, model in sorted(state.models.items())
    )


def describe_server(
    *,
    version: str,
    scheduler: str,
    stage: str,
    progress: Progress,
    outstanding: int,
    fleet: dict[str, WorkerState],
    ready: set[str],
    state: ClockworkState,
    tally: Tally,
    broken: dict[str, str],
    serving_ns: Nanos,
) -> ServerStatus:
    """Everything that `clockwork status` shows."""
    models = []
    for name, model in sorted(state.models.items()):
        counts = tally.of(name)
        models.append(
            ModelStatus(
                model.info,
                dict(model.profiles),
                counts.in_time,
                counts.late,
                counts.refused,
                counts.failed,
                counts.cold_starts,
                counts.broken_promises,
                {kind: model.recent(kind) for kind in model.profiles},
                model.predictions.summary(),
            )
        )
    workers = tuple(_describe_worker(worker, worker.id in ready) for _, worker in sorted(fleet.items()))
    return ServerStatus(
        version,
        scheduler,
        stage,
        progress,
        outstanding,
        workers,
        tuple(models),
        dict(broken),
        serving_ns,
        state.predictions().summary(),
    )


def _describe_worker(worker: WorkerState, ready: bool) -> WorkerStatus:
    gpus = tuple(
        GPUStatus(gpu.info(), gpu.cache.used, len(gpu.outstanding), gpu.predictions.summary()) for gpu in worker.gpus
    )
    return WorkerStatus(worker.id, ready, worker.page_size, gpus)
