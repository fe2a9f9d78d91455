"""Lists all models and versions with their states, for the repository index."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from clockwork.controller.catalog import VersionState
from clockwork.controller.description import Description
from clockwork.errors import InvalidModelError
from clockwork.messages.results import DEFAULT_VERSION
from clockwork.oip.metadata import NO_WORKER
from clockwork.repository.models import RepositoryModel, wanted_versions

READY: Final = VersionState.READY.value
UNAVAILABLE: Final = VersionState.UNAVAILABLE.value
LOADING: Final = VersionState.LOADING.value


NOT_LOADED: Final = "not loaded"
"""Reason that the index gives for a model that is in a model repository but was never loaded."""


class Entry(NamedTuple):
    """A version of a model, its state in Triton's terms, and the reason for the state.

    ``version`` is empty if no version of the model was ever loaded.
    """

    name: str
    version: str
    state: str
    reason: str


def index_of(server: Description, known: Iterable[RepositoryModel] = (), *, serving: bool) -> Iterator[Entry]:
    """Yield all versions by name and number. The state of each version is read when the iterator reaches the version.

    ``known`` are the models of the server's repositories, loaded or not. ``serving`` means that start-up is over and
    the server is not shutting down.
    """
    if not serving:
        yield from _not_serving(server)
        return
    broken = server.not_served()
    on_disk = {model.name: model for model in known}
    for name in sorted({*server.catalog.all_names(), *broken, *on_disk}):
        versions = server.catalog.versions(name)
        if not versions and name not in broken:
            yield Entry(name, "", UNAVAILABLE, _not_loaded(on_disk[name]))
        elif not versions:
            yield Entry(name, DEFAULT_VERSION, UNAVAILABLE, broken[name])
        for version in versions:
            state, reason = version.state.value, version.reason
            if version.model is not None and not server.can_serve(version.model):
                state, reason = UNAVAILABLE, NO_WORKER
            if name in on_disk and state == READY and not reason and version is versions[-1]:
                why = _why_not(on_disk[name])
                reason = f"a new load would fail: {why}" if why else ""
            yield Entry(name, version.number, state, reason)
        listed = {version.number for version in versions}
        for number, why in sorted(on_disk[name].incomplete.items()) if name in on_disk and versions else ():
            if str(number) not in listed:
                yield Entry(name, str(number), UNAVAILABLE, why)


def _why_not(model: RepositoryModel) -> str:
    """Return why a load of the model would fail. The text is empty if nothing in the repository prevents the load."""
    try:
        wanted_versions(model)
    except InvalidModelError as error:
        return str(error)
    return ""


def _not_loaded(model: RepositoryModel) -> str:
    why = _why_not(model)
    return f"{NOT_LOADED}: {why}" if why else NOT_LOADED


def _not_serving(server: Description) -> Iterator[Entry]:
    broken = server.not_served()
    versions = {model.served_as: model.version for model, _ in server.served()}
    for name in sorted({*versions, *broken}):
        version = versions.get(name, DEFAULT_VERSION)
        if name in broken:
            yield Entry(name, version, UNAVAILABLE, broken[name])
        else:
            yield Entry(name, version, LOADING, f"the server is {server.stage}")
