"""The controller's state in the words of `clockwork.messages`, for clients, people and monitoring.

Rules of the file: a `Description` may be asked for one thing at a time, so that who asks for much can pause in between.
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


def describe_models(state: ClockworkState) -> tuple[ModelSummary, ...]:
    """All models served, by name."""
    return tuple(
        ModelSummary(
            model.name,
            model.info.inputs,
            model.info.outputs,
            model.info.batchable,
            model.max_rows,
            model.info.weights_bytes,
        )
        for _, model in sorted(state.models.items())
    )


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

    def workers(self) -> Iterator[WorkerStatus]:
        """Each worker, by name."""
        for worker_id, worker in sorted(self.fleet.items()):
            yield _describe_worker(worker, worker_id in self.ready)

    def predictions(self) -> Iterator[Predictions]:
        """Of each device, and of those that are gone."""
        return self.state.each_predictions()

    def server(self) -> ServerStatus:
        """Everything that `clockwork status` shows."""
        return ServerStatus(
            self.version,
            self.scheduler,
            self.stage,
            self.progress,
            self.outstanding,
            tuple(self.workers()),
            tuple(
                _describe_model(model, self.tally.of(name), self.is_ready(name))
                for name, model in sorted(self.state.models.items())
            ),
            dict(self.broken),
            self.serving_ns,
            self.state.predictions().summary(),
            self.tally.strangers(),
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
        {kind: model.recent(kind) for kind in model.profiles},
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
