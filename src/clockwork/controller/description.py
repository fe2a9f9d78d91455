"""Describes the controller's state in messages, for clients, people and monitoring.

A `Description` describes one model or worker at a time. So its caller can run other tasks between two models or
workers.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from clockwork.controller.catalog import Catalog, Version, VersionState
from clockwork.controller.shadowing import Shadows
from clockwork.controller.stage import Stage
from clockwork.controller.tally import Counts, Tally
from clockwork.messages import counts
from clockwork.messages.requests import (
    GPUStatus,
    ModelStatus,
    ModelSummary,
    Progress,
    ServerStatus,
    VersionStatus,
    WorkerStatus,
)
from clockwork.messages.results import GPUInfo
from clockwork.messages.scaling import KindScaling
from clockwork.state import ClockworkState, ModelState, Predictions, WorkerState
from clockwork.units import Nanos


class Summaries:
    """The descriptions of all served versions for clients.

    The descriptions are kept until a model receives a profile or the catalog changes.
    """

    def __init__(self, catalog: Catalog) -> None:
        """Start without descriptions. ``catalog`` contains the versions."""
        self._catalog = catalog
        self._made_for = (-1, -1)
        self._summaries: tuple[ModelSummary, ...] = ()

    def after(self, assigned: int) -> tuple[ModelSummary, ...]:
        """Return the descriptions in order of name and version.

        ``assigned`` is the number of profiles that models have received so far.
        """
        moment = (assigned, self._catalog.revision)
        if moment != self._made_for:
            versions = [version for version in self._catalog if version.model is not None]
            self._summaries = tuple(describe_version(self._catalog, version) for version in versions)
            self._made_for = moment
        return self._summaries


def is_ready(
    stage: Stage, state: ClockworkState, catalog: Catalog, model: str | None = None, version: str = ""
) -> bool:
    """Return whether the server would serve a request for ``model`` now.

    If ``model`` is empty, return whether any model is served.

    ``version`` is a number or a label. An empty ``version`` means the default version.
    """
    if stage is not Stage.SERVING:
        return False
    if model is None:
        return state.answers()
    found = catalog.find(model, version)
    return found is not None and state.can_serve(found.name)


def describe_version(catalog: Catalog, version: Version) -> ModelSummary:
    """Return the description of a version that is READY."""
    assert version.model is not None
    labels = catalog.labels_of(version)
    return _summary(version.model, default=catalog.is_default(version), labels=labels)


def _summary(model: ModelState, *, default: bool = True, labels: tuple[str, ...] = ()) -> ModelSummary:
    info = model.info
    return ModelSummary(
        name=model.served_as,
        inputs=info.inputs,
        outputs=info.outputs,
        batchable=info.batchable,
        max_batch_size=model.max_rows,
        weights_bytes=info.weights_bytes,
        version=model.version,
        default=default,
        labels=labels,
    )


class Served(NamedTuple):
    """A load that serves requests, and its entry in the catalog. Before serving has begun, the entry is None."""

    model: ModelState
    version: Version | None


class Description(Struct, frozen=True):
    """Describes a server. ``fleet`` contains the workers that have reported their state.

    ``ready`` names the workers that serve and are not silent. ``fleet``, ``state``, ``catalog``, ``tally``, ``broken``
    and ``shadows`` are the controller's own objects, which change over time. ``started`` means that serving has begun.
    ``default_slo`` returns the SLO of a model's requests that set no SLO. ``now`` is the time of the description.
    ``scaling`` is empty before serving.
    """

    version: str
    scheduler: str
    stage: str
    progress: Progress
    outstanding: int
    fleet: Mapping[str, WorkerState]
    ready: frozenset[str]
    state: ClockworkState
    catalog: Catalog
    started: bool
    tally: Tally
    broken: Mapping[str, str]
    serving_ns: Nanos
    now: Nanos
    default_slo: Callable[[ModelState], Nanos]
    shadows: Shadows
    scaling: tuple[KindScaling, ...] = ()

    def served(self) -> Iterator[Served]:
        """Yield the loads that serve requests, in order of name and version. Changes during the iteration are included.

        Before serving has begun, yield the models that were loaded so far.
        """
        if not self.started:
            yield from (Served(model, None) for _, model in sorted(self.state.models.items()))
            return
        for version in self.catalog:
            if version.model is not None:
                yield Served(version.model, version)

    def is_ready(self, model: str | None = None, version: str = "") -> bool:
        """Return whether the server would serve a request for ``model`` now.

        If ``model`` is empty, return whether any model is served.
        """
        return is_ready(Stage(self.stage), self.state, self.catalog, model, version)

    def can_serve(self, model: ModelState) -> bool:
        """Return whether a device can serve this load now."""
        return Stage(self.stage) is Stage.SERVING and self.state.can_serve(model.name)

    def counts_of(self, model: ModelState) -> Counts:
        """Return a load's counters, which the caller must not change."""
        return self.tally.of(model.name)

    def summary_of(self, model: str, version: str = "") -> ModelSummary | None:
        """Return the description of a served version for clients, or None if the version is not served."""
        found = self.catalog.ready_version(model, version)
        return None if found is None else describe_version(self.catalog, found)

    def statuses_of(self, model: str, version: str = "") -> list[ModelStatus]:
        """Return the served version with its times and counts, or all served versions if ``version`` is empty."""
        if not self.started:
            found = self.state.models.get(model)
            return [] if found is None else [self._status(Served(found, None))]
        numbers = [version] if version else self.catalog.ready(model)
        versions = [self.catalog.ready_version(model, number) for number in numbers]
        return [self._status(Served(each.model, each)) for each in versions if each is not None and each.model]

    def statuses(self) -> Iterator[ModelStatus]:
        """Yield each served version in order of name and version.

        A version is described when the iterator reaches it.
        """
        return (self._status(served) for served in self.served())

    def _status(self, served: Served) -> ModelStatus:
        model, version = served
        status = _describe_model(
            model,
            self.tally.of(model.name),
            self.can_serve(model),
            self.default_slo(model),
            self.tally.demand.of(model.name),
        )
        recent = self.tally.of(model.name).recent
        short, long = (window(self.now, self.serving_ns) for window in (recent.last_10_s, recent.last_5_min))
        if version is None:
            return replace(status, last_10_s=short, last_5_min=long)
        default, labels = self.catalog.is_default(version), self.catalog.labels_of(version)
        return replace(status, default=default, labels=labels, last_10_s=short, last_5_min=long)

    def not_served(self) -> dict[str, str]:
        """Return the models that could not be loaded or measured at start-up and are not served, with the reasons."""
        return {name: why for name, why in self.broken.items() if not self.catalog.ready(name)}

    def other_versions(self) -> Iterator[VersionStatus]:
        """Yield the versions that are not READY, and the versions whose last load failed."""
        for version in self.catalog:
            if version.state is not VersionState.READY or version.reason:
                yield VersionStatus(version.name, version.number, version.state.value, version.reason)

    def workers(self) -> Iterator[WorkerStatus]:
        """Yield each worker, in order of names."""
        for worker_id, worker in sorted(self.fleet.items()):
            yield _describe_worker(worker, worker_id in self.ready, self.state)

    def predictions(self) -> Iterator[Predictions]:
        """Yield the prediction errors of each device, and of all devices of workers that have left."""
        return self.state.each_predictions()

    def server(self) -> ServerStatus:
        """Return all the information that `clockwork status` shows."""
        return self.server_with(tuple(self.statuses()))

    def server_with(self, models: tuple[ModelStatus, ...]) -> ServerStatus:
        """Return the same as `server`, but with descriptions of models that were made earlier."""
        return ServerStatus(
            version=self.version,
            scheduler=self.scheduler,
            stage=self.stage,
            progress=self.progress,
            outstanding=self.outstanding,
            workers=tuple(self.workers()),
            models=models,
            broken=self.not_served(),
            serving_ns=self.serving_ns,
            predictions=self.state.predictions().summary(),
            without_model=self.tally.without_model(),
            ready=self.is_ready(),
            versions=tuple(self.other_versions()),
            shadows=tuple(self.shadows.statuses()),
            scaling=self.scaling,
        )


def _describe_model(
    model: ModelState, counted: Counts, ready: bool, default_slo: Nanos, demand: tuple[counts.ModelDemand, ...]
) -> ModelStatus:
    answers = counted.named()
    changed = {kind: recent for kind, profile in model.profiles.items() if (recent := model.recent(kind)) != profile}
    return ModelStatus(
        info=replace(model.info, name=model.served_as, version=model.version),
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


def _describe_worker(worker: WorkerState, ready: bool, state: ClockworkState) -> WorkerStatus:
    gpus = tuple(
        GPUStatus(
            gpu=_with_served_names(gpu.info(), state),
            used_pages=gpu.cache.used,
            outstanding=len(gpu.outstanding),
            predictions=gpu.predictions.summary(),
            counts=gpu.work.summary(),
        )
        for gpu in worker.gpus
    )
    lacks = {state.models[key].served_as: why for key, why in worker.lacks.items() if key in state.models}
    return WorkerStatus(
        worker.id, ready, worker.page_size, gpus, worker.silent, lacks, worker.software, worker.findings
    )


def _with_served_names(device: GPUInfo, state: ClockworkState) -> GPUInfo:
    """Return a copy of a device's description that lists the models by the names that clients use."""
    names = tuple(state.models[key].served_as if key in state.models else key for key in device.models)
    return replace(device, models=names)
