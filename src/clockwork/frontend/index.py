"""Lists all models and versions with their states, for the repository index."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from clockwork.controller.catalog import VersionState
from clockwork.controller.description import Description
from clockwork.messages.results import DEFAULT_VERSION
from clockwork.oip.metadata import NO_WORKER

READY: Final = VersionState.READY.value
UNAVAILABLE: Final = VersionState.UNAVAILABLE.value
LOADING: Final = VersionState.LOADING.value


class Entry(NamedTuple):
    """An entry of the index: a version of a model, its state in Triton's terms, and the reason for the state."""

    name: str
    version: str
    state: str
    reason: str


def index_of(server: Description, *, serving: bool) -> Iterator[Entry]:
    """Yield all versions, sorted by name and number. The state of a version is read just before its entry is yielded.

    ``serving`` means that start-up is over and the server is not shutting down.
    """
    if not serving:
        yield from _not_serving(server)
        return
    broken = server.not_served()
    names = sorted({*server.catalog.all_names(), *broken})
    for name in names:
        versions = server.catalog.versions(name)
        if not versions:
            yield Entry(name, DEFAULT_VERSION, UNAVAILABLE, broken.get(name, ""))
        for version in versions:
            state, reason = version.state.value, version.reason
            if version.model is not None and not server.can_serve(version.model):
                state, reason = UNAVAILABLE, NO_WORKER
            yield Entry(name, version.number, state, reason)


def _not_serving(server: Description) -> Iterator[Entry]:
    broken = server.not_served()
    versions = {model.served_as: model.version for model, _ in server.served()}
    for name in sorted({*versions, *broken}):
        version = versions.get(name, DEFAULT_VERSION)
        if name in broken:
            yield Entry(name, version, UNAVAILABLE, broken[name])
        else:
            yield Entry(name, version, LOADING, f"the server is {server.stage}")
