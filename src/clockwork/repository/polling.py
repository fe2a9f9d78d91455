"""Decides from the polls of a repository which models to load, reload and unload. This module is pure.

Theory of operation. Each poll reports the state of every model's directory. A directory may be half-written, so the
poller acts on a directory only in one of these cases:

- the directory has not changed since a poll that ended at least one interval before this poll began
- the directory appeared by a rename: the previous poll saw no directory or a different inode, and nothing in the
  directory has changed for an interval. A rename changes nothing inside a directory, while a program that copies a
  directory keeps changing something inside

If a directory is missing for an interval, its model is unloaded. Within the interval, an operator can replace a
directory: move the old directory away, and move a new directory to its place. If a directory cannot be read, its model
stays as it is.

At most one action of a model is outstanding. A load that failed is repeated only when the directory has changed.
"""

from collections.abc import Mapping
from enum import Enum, auto

from msgspec import Struct

from clockwork.units import Nanos


class Seen(Struct, frozen=True):
    """The state of a model's directory in a poll; see `clockwork.repository.contents.Contents`.

    ``age`` is the time from the latest change within the directory to the beginning of the poll, according to the file
    system's clock. ``age`` is negative if the change happened during the poll, or if the file system's clock is ahead.
    """

    fingerprint: str
    inode: tuple[int, int]
    age: Nanos


class PollActions(Struct, frozen=True):
    """The models to load, reload and unload, in the order of their names.

    The caller must report the end of each action.
    """

    load: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()
    unload: tuple[str, ...] = ()


class _Action(Enum):
    LOAD = auto()
    RELOAD = auto()
    UNLOAD = auto()


class _Model(Struct):
    """The known facts about one model.

    ``since`` is the time from which the directory counts as unchanged. The poller acts on the directory one interval
    after ``since``. ``acted_on`` is the fingerprint of the directory at the latest load or reload, which may have
    failed.
    """

    seen: Seen
    since: Nanos
    present: bool = True
    serving: bool = False
    acted_on: str | None = None
    outstanding: _Action | None = None


class Poller:
    """Remembers the models of one repository between polls."""

    def __init__(self, interval: Nanos) -> None:
        """``interval`` is the time for which a directory must be unchanged."""
        self._interval = interval
        self._models: dict[str, _Model] = {}

    def poll(self, began: Nanos, ended: Nanos, seen: Mapping[str, Seen | None]) -> PollActions:
        """Return the actions that follow from a poll.

        Args:
            began: when the poll began. If the poll began less than an interval after the end of the previous poll, it
                finds changes but cannot confirm that a directory stayed unchanged.
            ended: when the poll ended.
            seen: all models in the repository; None for a model whose directory could not be read.
        """
        chosen: dict[_Action, list[str]] = {action: [] for action in _Action}
        for name in sorted(self._models.keys() | seen.keys()):
            if name in seen:
                self._see(began, ended, name, seen[name])
            else:
                self._miss(ended, name)
            action = self._next_action(began, name, name in seen and seen[name] is None)
            if action is not None:
                chosen[action].append(name)
        return PollActions(*(tuple(chosen[action]) for action in _Action))

    def finished(self, name: str, succeeded: bool) -> None:
        """Record the end of a model's action. After a failed reload, the model is served as before.

        Raises:
            ValueError: no action of the model is outstanding.
        """
        model = self._acting(name)
        if model.outstanding is _Action.LOAD:
            model.serving = succeeded
        elif model.outstanding is _Action.UNLOAD:
            model.serving, model.acted_on = False, None
        model.outstanding = None

    def postponed(self, name: str) -> None:
        """Record that an action was not begun, because the directory had changed again.

        A later poll may choose the action again.

        Raises:
            ValueError: no action of the model is outstanding.
        """
        model = self._acting(name)
        model.outstanding, model.acted_on = None, None

    def check_invariants(self) -> None:
        """Assert the poller's invariants."""
        for model in self._models.values():
            assert model.outstanding is not _Action.LOAD or not model.serving
            assert model.outstanding in (None, _Action.LOAD) or model.serving

    def _acting(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None or model.outstanding is None:
            raise ValueError(f"no action of model {name!r} is outstanding")
        return model

    def _see(self, began: Nanos, ended: Nanos, name: str, seen: Seen | None) -> None:
        model = self._models.get(name)
        if seen is None:
            if model is not None:
                model.present, model.since = True, ended
            return
        if model is None:
            self._models[name] = _Model(seen, self._since(began, ended, seen, None))
            return
        if not model.present or seen.fingerprint != model.seen.fingerprint or seen.inode != model.seen.inode:
            model.since = self._since(began, ended, seen, model.seen if model.present else None)
        model.seen, model.present = seen, True

    def _since(self, began: Nanos, ended: Nanos, seen: Seen, before: Seen | None) -> Nanos:
        """Return the time from which a changed directory counts as unchanged again."""
        renamed = (before is None or seen.inode != before.inode) and seen.age >= self._interval
        return began - self._interval if renamed else ended

    def _miss(self, ended: Nanos, name: str) -> None:
        model = self._models[name]
        if model.present:
            model.present, model.since = False, ended

    def _next_action(self, began: Nanos, name: str, unreadable: bool) -> _Action | None:
        """Return the action that the model needs, and record the action."""
        model = self._models.get(name)
        if model is None or unreadable or model.outstanding is not None or began - model.since < self._interval:
            return None
        if not model.present:
            if not model.serving:
                del self._models[name]
                return None
            model.outstanding = _Action.UNLOAD
        elif model.seen.fingerprint != model.acted_on:
            model.outstanding = _Action.RELOAD if model.serving else _Action.LOAD
            model.acted_on = model.seen.fingerprint
        return model.outstanding
