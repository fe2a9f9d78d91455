"""Describes the controller's state in messages, for clients, people and monitoring.

A `Description` describes one model or worker at a time, so that its caller can let other work run in between.
"""

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from clockwork.controller.stage import Stage
from clockwork.controller.tally import Counts, Tally
from clockwork.messages import counts
from clockwork.messages.requests import (
    GPUStatus,
    ModelStatus,
    ModelSummary,
    Progress,
    ServerStatus,
    WorkerStatus,
)
from clockwork.state import ClockworkState, ModelState, Predictions, WorkerState
from clockwork.units import Nanos


class Summaries:
    """The descriptions of all models for clients. They are made again only after a model has received a profile."""

    def __init__(self, state: ClockworkState) -> None:
        """``state`` may change afterwards, but its set of models may not."""
        self._state = state
        self._assigned = -1
        self._summaries: tuple[ModelSummary, ...] = ()

    def after(self, assigned: int) -> tuple[ModelSummary, ...]:
        """Return the descriptions by name. ``assigned`` is the number of profiles that models have received so far."""
        if assigned != self._assigned:
            self._summaries = tuple(describe_model(model) for _, model in sorted(self._state.models.items()))
            self._assigned = assigned
        return self._summaries


def is_ready(stage: Stage, state: ClockworkState, model: str | None = None) -> bool:
    """Return whether a request for ``model`` would be served now. Without ``model``, one served model is enough."""
    if stage is not Stage.SERVING:
        return False
    return state.answers() if model is None else state.can_serve(model)


def describe_model(model: ModelState) -> ModelSummary:
    """Return a model's description for clients."""
    info = model.info
    return ModelSummary(
        name=model.name,
        inputs=info.inputs,
        outputs=info.outputs,
        batchable=info.batchable,
        max_batch_size=model.max_rows,
        weights_bytes=info.weights_bytes,
        version=info.version,
    )


class Description(Struct, frozen=True):
    """Describes a server. ``fleet`` contains the workers that have reported their state.

    ``ready`` names the workers that serve and are not silent. ``fleet``, ``state``, ``tally`` and ``broken`` are the
    controller's own objects, which change over time. ``default_slo`` returns the SLO of the requests for a model that
    set none.
    """

    version: str
    scheduler: str
    stage: str
    progress: Progress
    outstanding: int
    fleet: Mapping[str, WorkerState]
    ready: frozenset[str]
    state: ClockworkState
    tally: Tally
    broken: Mapping[str, str]
    serving_ns: Nanos
    default_slo: Callable[[ModelState], Nanos]

    def models(self) -> list[str]:
        """Return the names of the served models, in order."""
        return sorted(self.state.models)

    def is_ready(self, model: str | None = None) -> bool:
        """Return whether a request for ``model`` would be served now. Without ``model``, one served model is enough."""
        return is_ready(Stage(self.stage), self.state, model)

    def counts_of(self, model: str) -> Counts:
        """Return the counters of a served model. The caller must not change them."""
        return self.tally.of(model)

    def summary_of(self, model: str) -> ModelSummary | None:
        """Return the description of a served model for clients, or None if no such model is served."""
        found = self.state.models.get(model)
        return None if found is None else describe_model(found)

    def status_of(self, model: str) -> ModelStatus | None:
        """Return a served model with its times and counts, or None if no such model is served."""
        found = self.state.models.get(model)
        if found is None:
            return None
        demand = self.tally.demand.of(model)
        return _describe_model(found, self.tally.of(model), self.is_ready(model), self.default_slo(found), demand)

    def statuses(self) -> Iterator[ModelStatus]:
        """Yield each served model, in order of names. A model is described when the iterator reaches it."""
        return (status for name in self.models() if (status := self.status_of(name)) is not None)

    def workers(self) -> Iterator[WorkerStatus]:
        """Yield each worker, in order of names."""
        for worker_id, worker in sorted(self.fleet.items()):
            yield _describe_worker(worker, worker_id in self.ready)

    def predictions(self) -> Iterator[Predictions]:
        """Yield the prediction errors of each device, and of devices whose workers have left."""
        return self.state.each_predictions()

    def server(self) -> ServerStatus:
        """Return all the information that `clockwork status` shows."""
        return self.server_with(tuple(self.statuses()))

    def server_with(self, models: tuple[ModelStatus, ...]) -> ServerStatus:
        """Return the result of `server`, but with ``models``, which were described earlier."""
        return ServerStatus(
            version=self.version,
            scheduler=self.scheduler,
            stage=self.stage,
            progress=self.progress,
            outstanding=self.outstanding,
            workers=tuple(self.workers()),
            models=models,
            broken=dict(self.broken),
            serving_ns=self.serving_ns,
            predictions=self.state.predictions().summary(),
            without_model=self.tally.without_model(),
            ready=self.is_ready(),
        )


def _describe_model(
    model: ModelState, counted: Counts, ready: bool, default_slo: Nanos, demand: tuple[counts.ModelDemand, ...]
) -> ModelStatus:
    answers = counted.named()
    changed = {kind: recent for kind, profile in model.profiles.items() if (recent := model.recent(kind)) != profile}
    return ModelStatus(
        info=model.info,
        profiles=dict(model.profiles),
        in_time=counts.in_time(answers),
        late=counts.late(answers),
        refused=counts.refused(answers),
        failed=counts.failed(answers),
        cold_starts=counted.cold_starts,
        broken_promises=counted.broken_promises,
        recent=changed,
        predictions=model.predictions.summary(),
        counts=counted.summary(),
        ready=ready,
        unbatched=model.unbatched,
        default_slo=default_slo,
        demand=demand,
    )


def _describe_worker(worker: WorkerState, ready: bool) -> WorkerStatus:
    gpus = tuple(
        GPUStatus(
            gpu=gpu.info(),
            used_pages=gpu.cache.used,
            outstanding=len(gpu.outstanding),
            predictions=gpu.predictions.summary(),
            counts=gpu.work.summary(),
        )
        for gpu in worker.gpus
    )
    return WorkerStatus(id=worker.id, ready=ready, page_size=worker.page_size, gpus=gpus, silent=worker.silent)
