"""Defines the changes of a scenario. Changes load, replace, unload or promote models while clients send requests."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.units import Nanos, seconds
from clockwork.workload.mix import chosen

MAX_CHANGES: Final = 100_000
"""Limit of the changes of one scenario."""

MAX_FIRST_EXECUTIONS: Final = 1000
"""Largest number of slow first executions."""


class ChangeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A change of models that is made once or repeatedly.

    The change is made ``at_s`` seconds after the workload's start, and then every ``every_s`` seconds until ``stop_s``.
    ``models`` selects models as in a workload. Each repetition changes the next selected model. ``kind`` is one of
    these:

    - "load": loads one more version, and keeps the versions that are served
    - "replace": loads one more version, which replaces the versions that are served
    - "reload": loads the highest version with different content; the version serves during the load
    - "unload": unloads all versions
    - "promote": makes the next ready version the default

    The other fields are about loads. Reading the file takes ``read_ms`` on each worker. The times of the new version
    are the model's times multiplied by ``factor``. After reading the file, the worker executes one row as a trial,
    which takes ``trial_factor`` times the model's time on the worker. A factor of 0 means that there is no trial. The
    first ``first_count`` executions on each device take ``first_factor`` times as long as later executions. If
    ``measured`` is true, the controller already knows the version's times. If ``same`` is true, the file has the same
    content as the version that was loaded last. ``fails`` is the number of workers on which the load fails.
    """

    kind: Literal["load", "replace", "reload", "unload", "promote"]
    models: tuple[str, ...] = ()
    at_s: float = 0.0
    every_s: float = 0.0
    stop_s: float | None = None
    read_ms: float = 100.0
    factor: float = 1.0
    trial_factor: float = 1.0
    first_factor: float = 1.0
    first_count: int = 1
    measured: bool = False
    same: bool = False
    fails: Literal["none", "one", "all"] = "none"

    @property
    def loads(self) -> bool:
        """Whether the change loads a version."""
        return self.kind in ("load", "replace", "reload")


class TimedChange(Struct, frozen=True):
    """A change of one model.

    ``at`` is the time since the workload's start. ``number`` is the number of the repetition.
    """

    at: Nanos
    spec: ChangeSpec
    model: str
    number: int


def timed_changes(specs: Sequence[ChangeSpec], models: Sequence[str], duration: Nanos) -> list[TimedChange]:
    """Return the changes of a scenario in order of time.

    Raises:
        InvalidRequestError: a pattern matches no model, or there are too many changes.
    """
    changes: list[TimedChange] = []
    for spec in specs:
        names = chosen(spec.models, models)
        end = duration if spec.stop_s is None else min(duration, seconds(spec.stop_s))
        at, every = seconds(spec.at_s), seconds(spec.every_s)
        count = 1 if not every else max(0, -(-(end - at) // every))
        if len(changes) + count > MAX_CHANGES:
            raise InvalidRequestError(f"[[changes]] has more than {MAX_CHANGES} changes; raise every_s")
        changes += [TimedChange(at + every * i, spec, names[i % len(names)], i) for i in range(count)]
    return sorted(changes, key=lambda change: change.at)


def check_changes(specs: Sequence[ChangeSpec], duration_s: float) -> None:
    """Check the changes of a scenario.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    for spec in specs:
        problems = {
            f"at_s is {spec.at_s:g}; it must be at least 0 and less than duration_s": not 0 <= spec.at_s < duration_s,
            f"every_s is {spec.every_s:g}; it must be 0 or at least 0.001": spec.every_s != 0 and spec.every_s < 0.001,
            f"read_ms is {spec.read_ms:g}; the range is 0 to 1e6": not 0 <= spec.read_ms <= 1e6,
            f"factor is {spec.factor:g}; the range is 0.001 to 1000": not 0.001 <= spec.factor <= 1000,
            f"trial_factor is {spec.trial_factor:g}; the range is 0 to 1000": not 0 <= spec.trial_factor <= 1000,
            f"first_factor is {spec.first_factor:g}; the range is 0.001 to 1000": not 0.001
            <= spec.first_factor
            <= 1000,
            f"first_count is {spec.first_count}; the range is 0 to {MAX_FIRST_EXECUTIONS}": not (
                0 <= spec.first_count <= MAX_FIRST_EXECUTIONS
            ),
        }
        for problem, is_one in problems.items():
            if is_one:
                raise InvalidRequestError(f"a [[changes]]: {problem}")
