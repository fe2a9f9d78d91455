"""Keeps the versions of all models, and finds the version that serves a request.

Theory of operation. A *version* is a model under a name and a version number. `VERSION_STATES` defines the states of a
version. A version can be loaded several times. Inside the controller, each load has a *key*. The key is the name of the
load's `ModelState`, and of the model on workers and devices. So two loads of the same version can exist at the same
time: one that serves, and one that will replace it. The catalog records which load serves each version. A request uses
the load that serves its version when the request is admitted, even if a newer load replaces that load before the
request is executed.

A request without a version gets the *default* version. The default is the promoted version while that version is ready.
Otherwise, the default is the highest ready version.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final

from clockwork.controller.naming import MAX_LABELS, check_label
from clockwork.errors import InvalidRequestError
from clockwork.messages.commands import NO_RETRY
from clockwork.messages.faults import no_ready_version, not_served, quoted, unknown_model, unknown_version
from clockwork.messages.requests import ModelVersion
from clockwork.messages.status import Status
from clockwork.state import ModelState
from clockwork.units import Nanos

MAX_UNAVAILABLE: Final = 1000
"""Limit of versions that are listed as UNAVAILABLE. Above this limit, the versions that were unloaded first are
forgotten.
"""


class VersionState(Enum):
    """The state of a version. The names are Triton's."""

    LOADING = "LOADING"  #: the version is being loaded or measured for the first time
    READY = "READY"  #: the version serves requests
    UNLOADING = "UNLOADING"  #: the version refuses new requests and finishes admitted requests
    UNAVAILABLE = "UNAVAILABLE"  #: the version is not loaded


class VersionEvent(Enum):
    """The events that change the state of a version. The values label the diagram in ARCHITECTURE.md."""

    LOAD = "a load begins"
    READY = "loaded, and measured at batch size 1"
    FAILED = "the load fails"
    UNLOAD = "an unload begins"
    GONE = "no worker holds the model any more"


_S = VersionState
_E = VersionEvent

VERSION_STATES: Final[Mapping[tuple[VersionState, VersionEvent], VersionState]] = {
    (_S.UNAVAILABLE, _E.LOAD): _S.LOADING,
    (_S.LOADING, _E.READY): _S.READY,
    (_S.LOADING, _E.FAILED): _S.UNAVAILABLE,
    (_S.READY, _E.LOAD): _S.READY,  # the version serves until the new load replaces it
    (_S.READY, _E.READY): _S.READY,
    (_S.READY, _E.FAILED): _S.READY,
    (_S.READY, _E.UNLOAD): _S.UNLOADING,
    (_S.UNLOADING, _E.LOAD): _S.LOADING,
    (_S.UNLOADING, _E.GONE): _S.UNAVAILABLE,
}
"""Maps (state, event) to the next state."""


class Version:
    """One version of a model. ``model`` is the load that serves the version, or None if no load serves it."""

    __slots__ = ("model", "name", "number", "reason", "source", "state")

    def __init__(self, name: str, number: str) -> None:
        """Create a version that is not loaded."""
        self.name = name
        self.number = number
        self.state = VersionState.UNAVAILABLE
        self.reason = ""  #: why the version is not READY, or why its last load failed
        self.model: ModelState | None = None
        self.source: ModelVersion | None = None  #: the number and the path of the last load that was ready


class Catalog:
    """The versions of all models by name, with their labels."""

    def __init__(
        self, labels: Mapping[str, Mapping[str, str]] | None = None, promoted: Mapping[str, str] | None = None
    ) -> None:
        """Start without models.

        ``labels`` maps the name of a model to its labels and their versions. ``promoted`` maps the name to the default
        version.
        """
        self._versions: dict[str, dict[str, Version]] = {}
        self._default: dict[str, ModelState] = {}  #: default model by name; models without a ready version are missing
        self._promoted: dict[str, str] = dict(promoted or {})  #: name -> version
        self.broken: Mapping[str, str] = {}  #: models that start-up could not load or measure -> why
        self._labels: dict[str, dict[str, str]] = {name: dict(given) for name, given in (labels or {}).items()}
        self.revision = 0  #: grows with every change of the versions, their states, labels or profiles
        self.served_revision = 0  #: grows with every change of the served versions, default versions and labels

    # --- requests ----------------------------------------------------------------------------------------------------

    def find(self, name: str, version: str = "") -> ModelState | None:
        """Return the load that serves a request for this version or label, or None if no load is ready."""
        if not version:
            return self._default.get(name)
        found = self.ready_version(name, version)
        return None if found is None else found.model

    def ready_version(self, name: str, version: str = "") -> Version | None:
        """Return the version that serves a request for this version or label, or None if no such version is ready."""
        if not version:
            model = self._default.get(name)
            return None if model is None else self._versions[name][model.version]
        found = self.version(name, version)
        return found if found is not None and found.state is VersionState.READY else None

    def version(self, name: str, version: str) -> Version | None:
        """Return a version by its number or by a label."""
        versions = self._versions.get(name)
        if versions is None:
            return None
        return versions.get(version) or versions.get(self._labels.get(name, {}).get(version, ""))

    def versions(self, name: str) -> list[Version]:
        """Return all versions of a name, lowest first."""
        versions = self._versions.get(name, {})
        if len(versions) == 1:
            return list(versions.values())
        return sorted(versions.values(), key=lambda version: _order(version.number))

    def ready(self, name: str) -> list[str]:
        """Return the numbers of the ready versions, with the lowest first."""
        return [version.number for version in self.versions(name) if version.state is VersionState.READY]

    def retry_time(self, name: str) -> Nanos | None:
        """Return `NO_RETRY` if start-up could not load or measure the model and no version is ready.

        Otherwise, return None.
        """
        return NO_RETRY if name in self.broken and not self.ready(name) else None

    def sources(self, name: str) -> tuple[ModelVersion, ...]:
        """Return the versions that a reload loads: all served versions or, without any, the highest unloaded version.

        If the result is one version, and its number was derived from its path, the number is left empty. The number is
        then derived from the path again.
        """
        versions = self.versions(name)
        chosen = [each for each in versions if each.model is not None]
        chosen = chosen or [each for each in versions if each.source is not None][-1:]
        sources = [(each.number, each.source) for each in chosen if each.source is not None]
        if len(sources) == 1:
            return (sources[0][1],)
        return tuple(ModelVersion(number, source.path) for number, source in sources)

    def why_missing(self, name: str, version: str = "") -> tuple[Status, str]:
        """Return the status and message for a request whose version is not ready."""
        if ready := self.ready(name):
            return Status.UNKNOWN_MODEL, unknown_version(name, version, ready)
        if name in self.broken:
            return Status.SKIPPED_BY_CONTROLLER, not_served(name, self.broken[name])
        if versions := self.versions(name):
            states = [f"{each.number} is {each.state.value}{each.reason and f' ({each.reason})'}" for each in versions]
            return Status.UNKNOWN_MODEL, no_ready_version(name, states)
        return Status.UNKNOWN_MODEL, unknown_model(name, self._default)

    def names(self) -> dict[str, ModelState]:
        """Return, by name, the models that serve requests without a version. The caller must not change the dict."""
        return self._default

    def all_names(self) -> list[str]:
        """Return the names of all models that have a version in any state, sorted."""
        return sorted(self._versions)

    def __iter__(self) -> Iterator[Version]:
        """Iterate over all versions by name and number."""
        for name in sorted(self._versions):
            yield from self.versions(name)

    # --- life --------------------------------------------------------------------------------------------------------

    def load(self, name: str, number: str) -> None:
        """Record that a load of a version begins."""
        version = self._version(name, number)
        version.reason = ""
        self._step(version, VersionEvent.LOAD)

    def serve(self, number: str, model: ModelState) -> ModelState | None:
        """Let a load that is ready serve a version. Return the load that it replaces, or None."""
        version = self._version(model.served_as, number)
        self._step(version, VersionEvent.READY)
        for other in self.versions(model.served_as):
            if other.state is VersionState.READY:
                other.reason = ""  # the reason is about an earlier load
        replaced, version.model = version.model, model
        version.source = ModelVersion("" if model.info.version == number else number, model.info.path)
        self._settle(version.name)
        return replaced

    def fail(self, name: str, number: str, reason: str) -> None:
        """Record that the load of a version failed.

        If an earlier load serves the version, that load continues to serve.
        """
        version = self._version(name, number)
        version.reason = reason
        self._step(version, VersionEvent.FAILED)
        self._bound()

    def note_failure(self, name: str, reason: str) -> None:
        """Record that a load failed before its version was known. The reason is stored in the highest ready version."""
        for number in self.ready(name)[-1:]:
            self._versions[name][number].reason = f"the last load failed: {reason}"
            self.revision += 1

    def unload(self, name: str, number: str, reason: str) -> ModelState | None:
        """Stop serving a version. Return the load that served the version."""
        version = self._version(name, number)
        self._step(version, VersionEvent.UNLOAD)
        model, version.model, version.reason = version.model, None, reason
        if self._promoted.get(name) == number:
            del self._promoted[name]
        self._settle(name)
        return model

    def gone(self, name: str, number: str) -> None:
        """Record that an unload has ended. A load of the same version may have begun or ended during the unload."""
        version = self._versions.get(name, {}).get(number)
        if version is not None and version.state is VersionState.UNLOADING:
            self._step(version, VersionEvent.GONE)
            self._bound()

    # --- names for versions ------------------------------------------------------------------------------------------

    def promote(self, name: str, number: str, label: str = "") -> None:
        """Make a ready version the default, or give it a label.

        Raises:
            InvalidRequestError: the version is not ready, the label is a number, or there are too many labels.
        """
        if number not in self.ready(name):
            raise InvalidRequestError(unknown_version(name, number, self.ready(name)))
        if not label:
            self._promoted[name] = number
            self._settle(name)
            return
        check_label(label)
        self.revision += 1
        self.served_revision += 1
        labels = self._labels.setdefault(name, {})
        if label not in labels and len(labels) >= MAX_LABELS:
            raise InvalidRequestError(f"model {quoted(name)} has {MAX_LABELS} labels, which is the limit")
        labels[label] = number

    def labels(self, name: str) -> dict[str, str]:
        """Return the labels of a model with their versions."""
        return dict(self._labels.get(name, {}))

    def labels_of(self, version: Version) -> tuple[str, ...]:
        """Return the labels of a version, sorted."""
        labels = self._labels.get(version.name)
        return () if labels is None else tuple(sorted(each for each in labels if labels[each] == version.number))

    def is_default(self, version: Version) -> bool:
        """Return whether this version serves the requests without a version."""
        return version.model is not None and self._default.get(version.name) is version.model

    def promoted(self, name: str) -> str:
        """Return the number of the version that was promoted, or an empty text if no version was promoted."""
        return self._promoted.get(name, "")

    def all_labels(self) -> dict[str, dict[str, str]]:
        """Return the labels of all models by name."""
        return {name: dict(labels) for name, labels in self._labels.items() if labels}

    def all_promoted(self) -> dict[str, str]:
        """Return the promoted versions by model name."""
        return dict(self._promoted)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _version(self, name: str, number: str) -> Version:
        versions = self._versions.setdefault(name, {})
        if number not in versions:
            versions[number] = Version(name, number)
        return versions[number]

    def _step(self, version: Version, event: VersionEvent) -> None:
        self.revision += 1
        version.state = VERSION_STATES[version.state, event]

    def _settle(self, name: str) -> None:
        """Determine the default version again after a change."""
        self.revision += 1
        self.served_revision += 1
        ready = self.ready(name)
        if not ready:
            self._default.pop(name, None)
            return
        promoted = self._promoted.get(name, "")
        model = self._versions[name][promoted if promoted in ready else ready[-1]].model
        assert model is not None
        self._default[name] = model

    def _bound(self) -> None:
        """Forget the versions that have been UNAVAILABLE longest, if there are more than the limit."""
        over = [version for versions in self._versions.values() for version in versions.values()]
        over = [version for version in over if version.state is VersionState.UNAVAILABLE]
        for version in over[: max(0, len(over) - MAX_UNAVAILABLE)]:
            del self._versions[version.name][version.number]
            if not self._versions[version.name]:
                del self._versions[version.name]

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        for version in self:
            assert (version.model is not None) == (version.state is VersionState.READY)
            assert version.model is None or version.model.served_as == version.name
            assert version.model is None or version.model.version == version.number
        assert set(self._default) == {name for name in self._versions if self.ready(name)}


def _order(number: str) -> tuple[int, str]:
    return (int(number), "") if number.isdigit() else (-1, number)
