"""The controller's state in the words of `clockwork.messages`, for clients, people and monitoring.

A `Description` gives one thing at a time, so that its user can let other work run in between.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from clockwork.controller.readiness import is_ready
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
    """All models as clients see them, described again only after a model was given a profile."""

    def __init__(self, state: ClockworkState) -> None:
        """``state`` may go on changing; ask only while its set of models stays as it is."""
        self._state = state
        self._assigned = -1
        self._made: tuple[ModelSummary, ...] = ()

    def after(self, assigned: int) -> tuple[ModelSummary, ...]:
        """Return the models by name: the same tuple while ``assigned``, the profiles given so far, is the same."""
        if assigned != self._assigned:
            self._made = tuple(describe_model(model) for _, model in sorted(self._state.models.items()))
            self._assigned = assigned
        return self._made


def describe_model(model: ModelState) -> ModelSummary:
    """A model as clients see it."""
    info = model.info
    return ModelSummary(model.name, info.inputs, info.outputs, info.batchable, model.max_rows, info.weights_bytes)


class Description(Struct, frozen=True):
    """What there is to say of a server; ``fleet``: workers that have told their state.

    ``ready`` are the workers in service that are not silent. ``fleet``, ``state``, ``tally`` and ``broken`` are the
    controller's own, and go on changing.
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

    def models(self) -> list[str]:
        """Their names, in order."""
        return sorted(self.state.models)

    def is_ready(self, model: str | None = None) -> bool:
        """Whether a request would be answered now: of any model, or of the one named."""
        return is_ready(Stage(self.stage), self.state, model)

    def counts_of(self, model: str) -> Counts:
        """A served model's counters, to be read."""
        return self.tally.of(model)

    def summary_of(self, model: str) -> ModelSummary | None:
        """A served model as clients see it; None: there is no such model."""
        found = self.state.models.get(model)
        return None if found is None else describe_model(found)

    def status_of(self, model: str) -> ModelStatus | None:
        """A served model, its times and its counts; None: there is no such model."""
        found = self.state.models.get(model)
        return None if found is None else _describe_model(found, self.tally.of(model), self.is_ready(model))

    def statuses(self) -> Iterator[ModelStatus]:
        """Each served model, by name, described when it is asked for."""
        return (status for name in self.models() if (status := self.status_of(name)) is not None)

    def workers(self) -> Iterator[WorkerStatus]:
        """Each worker, by name."""
        for worker_id, worker in sorted(self.fleet.items()):
            yield _describe_worker(worker, worker_id in self.ready)

    def predictions(self) -> Iterator[Predictions]:
        """Of each device, and of those that are gone."""
        return self.state.each_predictions()

    def server(self) -> ServerStatus:
        """Everything that `clockwork status` shows."""
        return self.server_with(tuple(self.statuses()))

    def server_with(self, models: tuple[ModelStatus, ...]) -> ServerStatus:
        """The same, with models that were described before."""
        return ServerStatus(
            self.version,
            self.scheduler,
            self.stage,
            self.progress,
            self.outstanding,
            tuple(self.workers()),
            models,
            dict(self.broken),
            self.serving_ns,
            self.state.predictions().summary(),
            self.tally.without_model(),
            self.is_ready(),
        )


def _describe_model(model: ModelState, counted: Counts, ready: bool) -> ModelStatus:
    answers = counted.named()
    return ModelStatus(
        model.info,
        dict(model.profiles),
        counts.in_time(answers),
        counts.late(answers),
        counts.refused(answers),
        counts.failed(answers),
        counted.cold_starts,
        counted.broken_promises,
        {kind: recent for kind, profile in model.profiles.items() if (recent := model.recent(kind)) != profile},
        model.predictions.summary(),
        counted.summary(),
        ready,
        model.unbatched,
    )


def _describe_worker(worker: WorkerState, ready: bool) -> WorkerStatus:
    gpus = tuple(
        GPUStatus(gpu.info(), gpu.cache.used, len(gpu.outstanding), gpu.predictions.summary(), gpu.work.summary())
        for gpu in worker.gpus
    )
    return WorkerStatus(worker.id, ready, worker.page_size, gpus, worker.silent)
