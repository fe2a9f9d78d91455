"""The table ``[autoscaler]`` of a scenario, which lets the fleet of a simulation grow and shrink."""

from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.sim.devices_spec import MAX_WORKERS

MAX_TIME_S: Final = 86_400.0


class AutoscalerSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """An autoscaler that adds and removes workers as the controller wishes.

    Every ``every_s`` seconds, the autoscaler reads the wanted number of devices, and computes a number of workers from
    ``min_workers`` to ``max_workers``. A new worker connects ``startup_s`` seconds later. With ``max_workers = 0``,
    there is no autoscaler. With ``follow = false``, the autoscaler only records the wanted number.
    """

    max_workers: int = 0
    min_workers: int = 1
    startup_s: float = 10.0
    every_s: float = 1.0
    follow: bool = True


def check_autoscaler(spec: AutoscalerSpec) -> None:
    """Check the values of an autoscaler.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    if not 0 <= spec.max_workers <= MAX_WORKERS:
        raise InvalidRequestError(f"[autoscaler] max_workers is {spec.max_workers}; the range is 0 to {MAX_WORKERS}")
    if spec.max_workers and not 1 <= spec.min_workers <= spec.max_workers:
        raise InvalidRequestError(
            f"[autoscaler] min_workers is {spec.min_workers}; the range is 1 to max_workers, {spec.max_workers}"
        )
    if not 0 <= spec.startup_s <= MAX_TIME_S or not 0.1 <= spec.every_s <= MAX_TIME_S:
        raise InvalidRequestError(
            f"[autoscaler] startup_s must be 0 to {MAX_TIME_S:.0f}, and every_s 0.1 to {MAX_TIME_S:.0f}"
        )
