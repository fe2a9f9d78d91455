"""Makes the changes of a scenario, as an operator would, and collects their outcomes.

The module checks that each change is answered exactly once, and that the scenario explains each failed change.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from clockwork.controller.events import ClientRequest, Respond
from clockwork.histogram import Histogram
from clockwork.messages.requests import (
    LoadModelRequest,
    LoadModelResponse,
    ModelVersion,
    PromoteRequest,
    PromoteResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from clockwork.messages.status import Status
from clockwork.paced.models import PacedModel, scaled
from clockwork.sim.change_spec import ChangeSpec, TimedChange
from clockwork.sim.cluster import Cluster
from clockwork.units import Nanos, as_ms, ms
from clockwork.workload.outcomes import Outcome

OPERATOR: Final = 2
"""Id of the client that makes the changes."""

MAX_REASONS: Final = 20
"""Largest number of different reasons of failed changes that are stored."""


class _Sent:
    """A change that was requested.

    ``alone`` means that no other change of the model was under way at the same time.
    """

    def __init__(self, change: TimedChange, began: Nanos, number: str, alone: bool) -> None:
        self.change = change
        self.began = began
        self.number = number  #: the version that the change loads or promotes
        self.alone = alone
        self.fails = False  #: whether the request cannot succeed


class _Model:
    """A model's versions, as far as the operator knows them."""

    def __init__(self, original: PacedModel) -> None:
        self.original = original
        self.last = original  #: the file that was loaded last
        self.broken = False  #: whether the workers fail to read this file
        self.number = 1  #: the version that was loaded last
        self.files = 1
        self.ready = ["1"]
        self.promoted = ""


class Changes:
    """The changes of one simulation."""

    def __init__(
        self,
        cluster: Cluster,
        changes: Sequence[TimedChange],
        original: Callable[[str], PacedModel],
        explained: Callable[[Nanos], bool],
        rng: Random,
    ) -> None:
        """``original`` returns the file from which a model is loaded at the start.

        ``explained`` is called with the time at which a change began. ``explained`` returns whether a fault explains
        that the change failed.
        """
        self._cluster = cluster
        self._changes = changes
        self._explained = explained
        self._rng = rng
        self._models = {change.model: _Model(original(change.model)) for change in changes}
        self._removed = {change.model for change in changes if change.spec.kind == "unload"}
        self._sent: dict[int, _Sent] = {}
        self._of_model: dict[str, int] = {}  #: number of changes under way
        self._last_id = 0
        self._last_end: Nanos = -1
        self._ready = Histogram()  #: durations from the request of a load until the version was ready
        self._counts: dict[str, int] = dict.fromkeys(("count", "succeeded", "failed"), 0)
        self._meanwhile = dict.fromkeys(("requests", "refused", "late", "admitted_missed", "failed"), 0)
        self._reasons: dict[str, int] = {}

    @property
    def pending(self) -> int:
        """Number of changes without a response."""
        return len(self._sent)

    def arrange(self, start: Nanos) -> None:
        """Schedule the changes on the loop. The workload begins at ``start``."""
        for change in self._changes:
            self._cluster.loop.at(start + change.at, self._begin, change)

    def may_be_missing(self, model: str) -> bool:
        """Return whether the model may be missing at times, because a change unloads all of its versions."""
        return model in self._removed

    # --- requests ----------------------------------------------------------------------------------------------------

    def _begin(self, change: Any) -> None:
        model, spec = self._models[change.model], change.spec
        self._last_id += 1
        request: LoadModelRequest | UnloadModelRequest | PromoteRequest
        number, fails = "", False
        if spec.loads:
            if spec.kind != "reload":
                model.number += 1
            number = str(model.number)
            if not spec.same:
                model.last = self._new_file(change, model, number)
            versions = (ModelVersion(number, model.last.path),)
            keep, fails = spec.kind != "replace", model.broken
            request = LoadModelRequest(self._last_id, model.last.path, change.model, versions=versions, keep=keep)
        elif spec.kind == "unload":
            request = UnloadModelRequest(self._last_id, change.model)
        else:
            number = _next(model.ready, model.promoted)
            request = PromoteRequest(self._last_id, change.model, number)
            fails = number not in model.ready
        under_way = self._of_model.get(change.model, 0)
        self._of_model[change.model] = under_way + 1
        for sent in self._sent.values():
            sent.alone &= sent.change.model != change.model
        self._counts["count"] += 1
        self._sent[self._last_id] = sent = _Sent(change, self._cluster.loop.now, number, alone=not under_way)
        sent.fails = fails
        self._cluster.feed(ClientRequest(OPERATOR, request, arrival=self._cluster.loop.now))

    def _new_file(self, change: TimedChange, model: _Model, number: str) -> PacedModel:
        """Add the file of a new version, so that the workers can load it."""
        model.files += 1
        spec, original = change.spec, model.original
        profile = scaled(original.profile, spec.factor)
        file = replace(
            original,
            path=f"{change.model}/{model.files}.onnx",
            digest=f"sim-{change.model}-{model.files}",
            profile=profile,
            version=number,
            read=ms(spec.read_ms),
            trial=round(profile.infer[1].median * spec.trial_factor),
            first=(spec.first_factor,) * spec.first_count if spec.first_factor != 1.0 else (),
        )
        broken = self._broken(spec, change.number)
        model.broken = bool(broken)
        self._cluster.add_file(file, broken, self._rng if spec.measured else None)
        return file

    def _broken(self, spec: ChangeSpec, number: int) -> frozenset[str]:
        """Return the workers on which the load fails."""
        workers = [worker.name for worker in self._cluster.workers]
        if spec.fails == "one":
            return frozenset((workers[number % len(workers)],))
        return frozenset(workers if spec.fails == "all" else ())

    # --- responses ---------------------------------------------------------------------------------------------------

    def answered(self, respond: Respond) -> None:
        """Handle the response to a change."""
        response, now = respond.response, self._cluster.loop.now
        assert isinstance(response, LoadModelResponse | UnloadModelResponse | PromoteResponse)
        sent = self._sent.pop(response.id, None)
        if sent is None:
            self._cluster.watcher.violation(f"change {response.id} was answered twice, or never requested")
            return
        name = sent.change.model
        self._of_model[name] -= 1
        self._last_end = now
        if response.status != Status.SUCCESS:
            self._counts["failed"] += 1
            self._check_failure(sent, response.message)
            return
        self._counts["succeeded"] += 1
        if sent.change.spec.loads:
            self._ready.add(now - sent.began)
        self._note(self._models[name], sent)

    def _check_failure(self, sent: _Sent, message: str) -> None:
        spec = sent.change.spec
        if message in self._reasons or len(self._reasons) < MAX_REASONS:
            self._reasons[message] = self._reasons.get(message, 0) + 1
        if not sent.fails and sent.alone and not self._explained(sent.began):
            what = f"{spec.kind} of {sent.change.model} at {sent.began}"
            self._cluster.watcher.violation(f"{what} failed, but nothing in the scenario explains it: {message}")

    def _note(self, model: _Model, sent: _Sent) -> None:
        """After a change that succeeded, record which versions are ready."""
        kind, number = sent.change.spec.kind, sent.number
        if kind == "promote":
            model.promoted = number
        elif kind == "unload":
            model.ready, model.promoted = [], ""
        elif kind == "replace":
            model.ready = [number]
        elif number not in model.ready:
            model.ready.append(number)

    # --- results -----------------------------------------------------------------------------------------------------

    def request_answered(self, arrival: Nanos, outcome: Outcome) -> None:
        """Count a request that was pending while a change was under way."""
        if not self._sent and arrival > self._last_end:
            return
        self._meanwhile["requests"] += 1
        if outcome.name != "in_time":
            self._meanwhile[outcome.name] += 1

    def check_answered(self) -> None:
        """Check that every change has got its response."""
        for sent in list(self._sent.values())[:10]:
            what = f"{sent.change.spec.kind} of {sent.change.model} at {sent.began}"
            self._cluster.watcher.violation(f"{what} was never answered")

    def summary(self) -> dict[str, Any]:
        """Return the counts of the changes for the JSON."""
        ready = {f"ready_ms_p{percent}": _shown(self._ready.percentile(percent)) for percent in (50, 99, 100)}
        return {**self._counts, **ready, "meanwhile": dict(self._meanwhile), "reasons": dict(self._reasons)}


def _next(ready: list[str], promoted: str) -> str:
    """Return the ready version after the promoted version, or "1" if no version is ready."""
    if not ready:
        return "1"
    place = ready.index(promoted) + 1 if promoted in ready else 0
    return ready[place % len(ready)]


def _shown(value: Nanos | None) -> float | None:
    return None if value is None else round(as_ms(value), 3)
