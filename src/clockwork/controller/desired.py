"""Computes the set of models that a restarted controller should serve, and merges it with the operator's arguments.

The *desired set* contains the versions that are ready, and the models that the operator named but start-up could not
load. A load that has not ended is not part of the set. After each event of the stage SERVING, `DesiredSet.changes`
compares the set with the last one that was saved.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from clockwork.controller.catalog import Catalog, Version
from clockwork.controller.config import ControllerConfig, DesiredModels, LoadSpec
from clockwork.controller.events import ControllerCommand, SaveModels
from clockwork.controller.fleet import Fleet
from clockwork.controller.naming import check_label, keyed_specs, load_spec, spec_names
from clockwork.controller.shadow_specs import check_shadows
from clockwork.controller.shadowing import Shadows
from clockwork.errors import InvalidRequestError
from clockwork.messages.actions import model_names
from clockwork.state import ModelState

MAX_WORKERS: Final = 10_000
"""Limit of the number of workers for which a restarted controller waits."""

MAX_KEY: Final = 1000
"""Largest number of characters of a key or a version in a file."""


class DesiredSet:
    """The desired set of a controller that is in the stage SERVING."""

    def __init__(
        self, config: ControllerConfig, catalog: Catalog, fleet: Fleet, named: Iterable[LoadSpec], shadows: Shadows
    ) -> None:
        """``named`` are the models that the operator named, with their names and keys."""
        self._config = config
        self._catalog = catalog
        self._fleet = fleet
        self._named = tuple(named)
        self._shadows = shadows

        #: the catalog's served_revision, number of workers, and revision of the shadows
        self._seen: tuple[int, int, int] | None = None
        self._saved: DesiredModels | None = None
        self._specs: dict[ModelState, LoadSpec] = {}  #: entries of the served models, because most stay the same

    def changes(self) -> list[ControllerCommand]:
        """Return a `SaveModels` if the set has changed since the last call."""
        seen = self._catalog.served_revision, len(self._fleet.workers), self._shadows.revision
        if seen == self._seen:
            return []
        self._seen = seen
        desired = self._desired()
        if desired == self._saved:
            return []
        self._saved = desired
        return [SaveModels(desired)]

    def _desired(self) -> DesiredModels:
        return DesiredModels(
            models=(*self._served(), *self._missing()),
            promoted=self._catalog.all_promoted(),
            labels=self._catalog.all_labels(),
            slos=self._config.model_slos,
            workers=len(self._fleet.workers),
            shadows=self._shadows.desired(),
        )

    def _served(self) -> list[LoadSpec]:
        """Return the ready versions. Copies of one load that are all ready become one entry."""
        copies: dict[tuple[str, str, int], list[LoadSpec]] = {}
        specs: list[LoadSpec] = []
        known, self._specs = self._specs, {}
        for version in self._catalog:
            model = version.model
            if model is None:
                continue
            spec = self._specs[model] = known.get(model) or _spec(version, model)
            if model.info.copies > 1:
                copies.setdefault((spec.path, model.info.load, model.info.copies), []).append(spec)
            else:
                specs.append(spec)
        for (path, load, count), group in copies.items():
            # a client may have unloaded some of the copies
            specs += [LoadSpec(path, load, count, "", load)] if len(group) == count else group
        return specs

    def _missing(self) -> list[LoadSpec]:
        """Return the models that start-up could not load or measure, and that no client has loaded since."""
        return [spec for spec in self._named if self._is_broken(spec) and not self._was_changed(spec)]

    def _is_broken(self, spec: LoadSpec) -> bool:
        return any(name in self._catalog.broken for name in model_names(spec.key, spec.no_of_copies))

    def _was_changed(self, spec: LoadSpec) -> bool:
        """Return whether a client may have changed the model.

        The result is true if this version has been ready, or another version that the operator did not name.
        """
        versions = [version for name in spec_names(spec) for version in self._catalog.versions(name)]
        others = {named.version for named in self._named if named.name == spec.name and named != spec}
        return any(version.source is not None and version.number not in others for version in versions)


def merge(
    saved: tuple[LoadSpec, ...], given: tuple[LoadSpec, ...], given_before: tuple[LoadSpec, ...]
) -> tuple[LoadSpec, ...]:
    """Return the models that a restarted controller loads.

    ``given`` contains the models in the operator's arguments. ``given_before`` contains the models in the arguments of
    the process that stored the ``saved`` models. If the arguments of a model have changed since then, the new arguments
    decide how the model is loaded. All other models are loaded as they were saved.
    """
    before, now = _by_name(given_before), _by_name(given)
    changed = [spec for name, specs in now.items() if specs != before.get(name) for spec in specs]
    taken = {name for spec in changed for name in (spec.name, *spec_names(spec))}
    kept = [spec for spec in saved if not taken & {spec.name, *spec_names(spec)}]
    return (*kept, *changed)


def merge_labels(
    saved: Mapping[str, Mapping[str, str]],
    given: Mapping[str, Mapping[str, str]],
    given_before: Mapping[str, Mapping[str, str]],
) -> dict[str, dict[str, str]]:
    """Return the labels of a restarted controller.

    If the argument that sets a label has changed, the new argument applies.
    """
    merged = {name: dict(labels) for name, labels in given.items()}
    for name, labels in saved.items():
        for label, version in labels.items():
            now, before = given.get(name, {}).get(label), given_before.get(name, {}).get(label)
            if now is None or now == before:
                merged.setdefault(name, {})[label] = version
    return merged


def check_desired(desired: DesiredModels, max_copies: int) -> None:
    """Check a desired set that comes from a file.

    Raises:
        InvalidRequestError: a value is not one that a controller saves.
    """
    for spec in desired.models:
        load_spec(spec.path, spec.name, spec.no_of_copies, max_copies)
        base, slash, suffix = spec.key.partition("/")
        fits = base == spec.name and bool(suffix) == bool(slash) and not (slash and spec.no_of_copies > 1)
        if not fits or len(spec.key) > MAX_KEY or len(spec.version) > MAX_KEY:
            raise InvalidRequestError(f"model {spec.name} has the invalid key {spec.key[:80]!r}")
    keyed_specs(desired.models, max_copies)
    check_shadows(desired.shadows)
    for labels in desired.labels.values():
        for label in labels:
            check_label(label)
    if not all(slo > 0 for slo in desired.slos.values()):
        raise InvalidRequestError("an SLO is not positive")
    if not 0 <= desired.workers <= MAX_WORKERS:
        raise InvalidRequestError(f"number of workers is {desired.workers}; it must be 0 to {MAX_WORKERS}")


def _spec(version: Version, model: ModelState) -> LoadSpec:
    return LoadSpec(model.info.path, version.name, 1, version.number, model.name)


def _by_name(specs: Iterable[LoadSpec]) -> dict[str, list[LoadSpec]]:
    found: dict[str, list[LoadSpec]] = {}
    for spec in specs:
        found.setdefault(spec.name, []).append(LoadSpec(spec.path, spec.name, spec.no_of_copies, spec.version))
    return found
