"""The devices of a simulated fleet.

All devices of the table ``[devices]`` have the times that the models' profiles state. The devices of each table
``[[devices.others]]`` are of another kind: their times are ``factor`` times as long::

    [devices]
    workers = 2
    per_worker = 1
    pages = 1376

    [[devices.others]]
    kind = "old"
    workers = 4
    pages = 500
    factor = 3.0
"""

from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.paced.durations import MAX_FACTOR, MIN_FACTOR
from clockwork.units import Pages

KIND: Final = "sim"
"""Kind of the devices that have the times of the profiles."""

MAX_WORKERS: Final = 10_000
MAX_PER_WORKER: Final = 64
MAX_PAGES: Final = 1 << 24
MAX_KINDS: Final = 16
MAX_KIND_LENGTH: Final = 64


class WorkerSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Similar workers. Executions and loads take ``factor`` times as long as the profiles state."""

    kind: str = KIND
    workers: int = 1
    per_worker: int = 1
    pages: Pages = 1376
    factor: float = 1.0

    @property
    def count(self) -> int:
        """Number of devices of all workers together."""
        return self.workers * self.per_worker


class DevicesSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The devices of the fleet."""

    workers: int = 1
    per_worker: int = 1
    pages: Pages = 1376
    others: tuple[WorkerSpec, ...] = ()

    @property
    def kinds(self) -> tuple[WorkerSpec, ...]:
        """The workers of each kind. The kind `KIND` is first."""
        return WorkerSpec(KIND, self.workers, self.per_worker, self.pages), *self.others

    @property
    def all_workers(self) -> int:
        """Number of workers of all kinds together."""
        return sum(kind.workers for kind in self.kinds)

    @property
    def count(self) -> int:
        """Number of devices of all workers together."""
        return sum(kind.count for kind in self.kinds)

    @property
    def speed(self) -> float:
        """Number of devices of the kind `KIND` that could do the work of all devices."""
        return sum(kind.count / kind.factor for kind in self.kinds)


def check_devices(devices: DevicesSpec) -> None:
    """Check the devices of a scenario.

    Raises:
        InvalidRequestError: a number is out of range, or two kinds have the same name.
    """
    names = [kind.kind for kind in devices.kinds]
    if len(devices.others) > MAX_KINDS:
        raise InvalidRequestError(f"[[devices.others]] has {len(devices.others)} entries; the limit is {MAX_KINDS}")
    if repeated := next((name for name in names if names.count(name) > 1), ""):
        raise InvalidRequestError(f"two kinds of devices have the name {repeated!r}; change kind in [[devices.others]]")
    for table, kind in zip(("[devices]", *["[[devices.others]]"] * MAX_KINDS), devices.kinds, strict=False):
        for key, value, low, high in (
            ("workers", kind.workers, 1, MAX_WORKERS),
            ("per_worker", kind.per_worker, 1, MAX_PER_WORKER),
            ("pages", kind.pages, 1, MAX_PAGES),
            ("factor", kind.factor, MIN_FACTOR, MAX_FACTOR),
        ):
            if not low <= value <= high:
                raise InvalidRequestError(f"{table} {key} is {value}; the range is {low} to {high}")
        if not 1 <= len(kind.kind) <= MAX_KIND_LENGTH or not kind.kind.isprintable():
            raise InvalidRequestError(
                f"{table} kind is {kind.kind!r}; it must have 1 to {MAX_KIND_LENGTH} printable characters"
            )
    if devices.all_workers > MAX_WORKERS:
        raise InvalidRequestError(f"the fleet has {devices.all_workers} workers; the limit is {MAX_WORKERS}")
