"""The poller acts only on directories that are complete, once for each change, and forgets nothing."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockwork.repository.polling import PollActions, Poller, Seen
from clockwork.units import Nanos, seconds

INTERVAL = seconds(15)
NOTHING = PollActions()


def fresh(fingerprint: str, inode: int = 1) -> Seen:
    return Seen(fingerprint, (0, inode), 0)


def old(fingerprint: str, inode: int = 1) -> Seen:
    return Seen(fingerprint, (0, inode), INTERVAL)


def serving(*names: str) -> Poller:
    """Return a poller at time 0 that has loaded these models."""
    poller = Poller(INTERVAL)
    assert poller.poll(0, 0, {name: old("a") for name in names}) == PollActions(load=names)
    for name in names:
        poller.finished(name, True)
    return poller


# ---------------------------------------------------------------------------------------------------------- loads


def test_a_directory_is_loaded_when_it_has_been_unchanged_for_an_interval() -> None:
    poller = Poller(INTERVAL)
    assert poller.poll(0, 0, {"net": fresh("a")}) == NOTHING
    assert poller.poll(INTERVAL, INTERVAL, {"net": fresh("b")}) == NOTHING, "still being written"
    assert poller.poll(2 * INTERVAL - 1, 2 * INTERVAL - 1, {"net": fresh("b")}) == NOTHING
    assert poller.poll(2 * INTERVAL, 2 * INTERVAL, {"net": fresh("b")}) == PollActions(load=("net",))
    poller.finished("net", True)
    assert poller.poll(3 * INTERVAL, 3 * INTERVAL, {"net": fresh("b")}) == NOTHING


def test_a_directory_that_was_renamed_into_place_is_loaded_at_once() -> None:
    poller = Poller(INTERVAL)
    assert poller.poll(0, 0, {"net": old("a", 1)}) == PollActions(load=("net",))
    poller.finished("net", True)
    assert poller.poll(INTERVAL, INTERVAL, {"net": old("b", 2)}) == PollActions(reload=("net",))


def test_a_changed_directory_of_the_same_inode_waits_even_if_its_files_are_old() -> None:
    poller = serving("net")
    assert poller.poll(INTERVAL, INTERVAL, {"net": old("b")}) == NOTHING
    assert poller.poll(2 * INTERVAL, 2 * INTERVAL, {"net": old("b")}) == PollActions(reload=("net",))


def test_polls_that_take_longer_than_an_interval_confirm_nothing_about_their_end() -> None:
    poller = Poller(INTERVAL)
    assert poller.poll(0, 10 * INTERVAL, {"net": fresh("a")}) == NOTHING
    assert poller.poll(10 * INTERVAL, 10 * INTERVAL, {"net": fresh("a")}) == NOTHING
    assert poller.poll(11 * INTERVAL, 11 * INTERVAL, {"net": fresh("a")}) == PollActions(load=("net",))


def test_a_file_system_whose_clock_is_ahead_delays_a_load_by_an_interval() -> None:
    poller = Poller(INTERVAL)
    ahead = Seen("a", (0, 1), -seconds(3600))
    assert poller.poll(0, 0, {"net": ahead}) == NOTHING
    assert poller.poll(INTERVAL, INTERVAL, {"net": ahead}) == PollActions(load=("net",))


def test_a_failed_load_is_repeated_only_when_the_directory_changes() -> None:
    poller = Poller(INTERVAL)
    poller.poll(0, 0, {"net": old("a")})
    poller.finished("net", False)
    assert poller.poll(INTERVAL, INTERVAL, {"net": old("a")}) == NOTHING
    assert poller.poll(2 * INTERVAL, 2 * INTERVAL, {"net": old("b", 2)}) == PollActions(load=("net",)), "not a reload"


def test_a_failed_reload_leaves_the_model_served() -> None:
    poller = serving("net")
    assert poller.poll(INTERVAL, INTERVAL, {"net": old("b", 2)}) == PollActions(reload=("net",))
    poller.finished("net", False)
    assert poller.poll(2 * INTERVAL, 2 * INTERVAL, {"net": old("b", 2)}) == NOTHING
    assert poller.poll(3 * INTERVAL, 3 * INTERVAL, {"net": old("c", 3)}) == PollActions(reload=("net",))


def test_a_change_during_an_action_waits_for_its_end() -> None:
    poller = Poller(INTERVAL)
    poller.poll(0, 0, {"net": old("a")})
    assert poller.poll(INTERVAL, INTERVAL, {"net": old("b", 2)}) == NOTHING
    poller.finished("net", True)
    assert poller.poll(2 * INTERVAL, 2 * INTERVAL, {"net": old("b", 2)}) == PollActions(reload=("net",))


def test_a_postponed_action_is_chosen_again() -> None:
    poller = Poller(INTERVAL)
    poller.poll(0, 0, {"net": old("a")})
    poller.postponed("net")
    assert poller.poll(INTERVAL, INTERVAL, {"net": old("a")}) == PollActions(load=("net",))


# -------------------------------------------------------------------------------------------------------- unloads


def test_a_directory_that_vanished_is_unloaded_after_an_interval() -> None:
    poller = serving("net", "other")
    assert poller.poll(INTERVAL, INTERVAL, {"other": old("a")}) == NOTHING
    assert poller.poll(2 * INTERVAL, 2 * INTERVAL, {"other": old("a")}) == PollActions(unload=("net",))
    poller.finished("net", True)
    assert poller.poll(3 * INTERVAL, 3 * INTERVAL, {"net": old("a"), "other": old("a")}) == PollActions(load=("net",))


def test_a_directory_that_is_replaced_by_two_renames_is_not_unloaded() -> None:
    poller = serving("net")
    assert poller.poll(INTERVAL, INTERVAL, {}) == NOTHING, "between the renames"
    assert poller.poll(2 * INTERVAL, 2 * INTERVAL, {"net": old("b", 2)}) == PollActions(reload=("net",))


def test_a_directory_that_comes_back_unchanged_stays_served() -> None:
    poller = serving("net")
    assert poller.poll(INTERVAL, INTERVAL, {}) == NOTHING
    for poll in (2, 3, 4):
        assert poller.poll(poll * INTERVAL, poll * INTERVAL, {"net": old("a")}) == NOTHING


def test_a_directory_that_cannot_be_read_changes_nothing() -> None:
    poller = serving("net")
    for poll in (1, 2, 3):
        assert poller.poll(poll * INTERVAL, poll * INTERVAL, {"net": None, "new": None}) == NOTHING
    assert poller.poll(4 * INTERVAL, 4 * INTERVAL, {"net": old("b")}) == NOTHING
    assert poller.poll(5 * INTERVAL, 5 * INTERVAL, {"net": old("b")}) == PollActions(reload=("net",))


def test_the_end_of_an_action_that_was_not_chosen_is_an_error() -> None:
    poller = serving("net")
    with pytest.raises(ValueError, match="no action of model 'net' is outstanding"):
        poller.finished("net", True)
    with pytest.raises(ValueError, match="no action of model 'x' is outstanding"):
        poller.postponed("x")


# ----------------------------------------------------------------------------------------------------- properties


class Disk:
    """A repository with some directories, a poller that polls it, and a record of what each poll saw."""

    def __init__(self) -> None:
        self.poller = Poller(INTERVAL)
        self.now: Nanos = 0
        self.changes = 0
        self.directories: dict[str, tuple[str, int, Nanos]] = {}  #: fingerprint, inode and time of the latest change
        self.unreadable: set[str] = set()
        self.history: list[tuple[Nanos, dict[str, Seen | None]]] = []
        self.outstanding: dict[str, str] = {}
        self.served: set[str] = set()
        self.latest: dict[str, str] = {}  #: fingerprint of the latest load or reload of a model

    def write(self, name: str) -> None:
        self.changes += 1
        _, inode, _ = self.directories.get(name, ("", self.changes, 0))
        self.directories[name] = (f"f{self.changes}", inode, self.now)

    def rename(self, name: str) -> None:
        self.changes += 1
        self.directories[name] = (f"f{self.changes}", self.changes, self.now - INTERVAL)

    def remove(self, name: str) -> None:
        self.directories.pop(name, None)

    def obscure(self, name: str) -> None:
        self.unreadable.symmetric_difference_update({name})

    def sleep(self, time: Nanos) -> None:
        self.now += time

    def poll(self) -> PollActions:
        seen = {
            name: None if name in self.unreadable else Seen(fingerprint, (0, inode), self.now - changed)
            for name, (fingerprint, inode, changed) in self.directories.items()
        }
        self.history.append((self.now, seen))
        actions = self.poller.poll(self.now, self.now, seen)
        self.poller.check_invariants()
        for kind in ("load", "reload", "unload"):
            for name in getattr(actions, kind):
                self.check(kind, name)
                self.outstanding[name] = kind
        return actions

    def check(self, kind: str, name: str) -> None:
        assert name not in self.outstanding, "one action at a time"
        assert (kind == "load") == (name not in self.served)
        if kind == "unload":
            assert self.time_since(name, lambda seen: name not in seen) >= INTERVAL
            del self.latest[name]
            return
        now = self.history[-1][1][name]
        assert now is not None
        assert now.fingerprint != self.latest.get(name), "the directory has changed since the latest action"
        self.latest[name] = now.fingerprint
        unchanged = self.time_since(name, lambda seen: name in seen and same(seen[name] or now, now))
        assert unchanged >= INTERVAL or self.renamed(name, now)

    def time_since(self, name: str, holds: Any) -> Nanos:
        """Return how long all polls up to now have fulfilled a condition, from one that could read the directory."""
        begin = self.now
        for time, seen in reversed(self.history):
            if not holds(seen):
                break
            if name not in seen or seen[name] is not None:
                begin = time
        return self.now - begin

    def renamed(self, name: str, now: Seen) -> bool:
        """Return whether the first poll that saw this directory saw it complete."""
        for _, seen in self.history:
            it = seen.get(name)
            if it is not None and it.inode == now.inode:
                return same(it, now) and it.age >= INTERVAL
        return False

    def finish(self, name: str, succeeded: bool) -> None:
        kind = self.outstanding.pop(name, "")
        if kind:
            self.poller.finished(name, succeeded)
            if kind == "unload":
                self.served.discard(name)
            elif succeeded:
                self.served.add(name)


def same(one: Seen, other: Seen) -> bool:
    return (one.fingerprint, one.inode) == (other.fingerprint, other.inode)


names = st.sampled_from(["a", "b"])
steps = st.one_of(
    st.tuples(st.sampled_from(["write", "rename", "remove", "obscure"]), names),
    st.tuples(st.just("sleep"), st.sampled_from([INTERVAL // 3, INTERVAL - 1, INTERVAL])),
    st.tuples(st.just("poll")),
    st.tuples(st.just("finish"), names, st.booleans()),
)


@given(st.lists(steps, max_size=60))
@settings(max_examples=500, derandomize=True, database=None, deadline=None)
def test_only_complete_directories_are_acted_on_and_a_quiet_repository_is_served(script: list[Any]) -> None:
    disk = Disk()
    for step, *arguments in script:
        getattr(disk, step)(*arguments)
    disk.unreadable.clear()
    for _ in range(4):  # nothing changes any more, and every action succeeds
        for name in list(disk.outstanding):
            disk.finish(name, True)
        disk.sleep(INTERVAL)
        disk.poll()
    assert not disk.outstanding
    for name, (fingerprint, _, _) in disk.directories.items():
        assert disk.latest[name] == fingerprint
    assert disk.served <= disk.directories.keys()
    assert disk.poll() == NOTHING
