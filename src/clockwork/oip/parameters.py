"""Checks the parameters of an inference request. Both transports use this module."""

from collections.abc import Mapping
from typing import Any, Final

from clockwork.errors import InvalidRequestError
from clockwork.units import MICROSECOND, MILLISECOND, Nanos

MAX_PRIORITY: Final = 2**64 - 1
"""Largest priority. In Triton's schedule policy extension, a priority is an unsigned integer of 64 bits."""

MAX_DURATION: Final = 1e15
"""Largest value of a parameter that is a duration. The parameter's name defines the unit."""

_SEQUENCES: Final = ("sequence_id", "sequence_start", "sequence_end")


def requested_slo(parameters: Mapping[str, Any], *, ignore_timeout: bool = False) -> tuple[Nanos | None, str]:
    """Check all parameters, and return the SLO that the request sets, and the name of the parameter.

    Triton's ``timeout`` is in microseconds, and ``slo_ms`` is in milliseconds. If a request sets both, the shorter
    duration applies. A timeout of 0 sets no SLO, as in Triton. The SLO is None if the request sets no SLO.
    ``priority`` is checked but has no effect, because the scheduler orders requests by their deadlines. If
    ``ignore_timeout`` is true, only ``slo_ms`` sets an SLO.

    Raises:
        InvalidRequestError: a parameter has a wrong value, or requests a sequence.
    """
    if not parameters:
        return None, ""
    _check_priority(parameters.get("priority"))
    for name in _SEQUENCES:
        if parameters.get(name):
            raise InvalidRequestError(f"parameter {name} is not supported; send the requests of a sequence without it")
    limits = _limits(parameters, ignore_timeout=ignore_timeout)
    if not limits:
        return None, ""
    source = min(limits, key=limits.__getitem__)
    return max(1, limits[source]), source


def _limits(parameters: Mapping[str, Any], *, ignore_timeout: bool) -> dict[str, Nanos]:
    limits: dict[str, Nanos] = {}
    timeout = None if ignore_timeout else parameters.get("timeout")
    if timeout is not None and (value := _duration("timeout", timeout)):
        limits["timeout"] = round(value * MICROSECOND)
    slo = parameters.get("slo_ms")
    if slo is not None:
        value = _duration("slo_ms", slo)
        if not value:
            raise InvalidRequestError("slo_ms is 0; it must be a positive number of milliseconds")
        limits["slo_ms"] = round(value * MILLISECOND)
    return limits


def _check_priority(priority: Any) -> None:
    """Check Triton's ``priority``. The value 0 means the model's default, and 1 is the highest priority."""
    if priority is not None and (type(priority) is not int or not 0 <= priority <= MAX_PRIORITY):
        raise InvalidRequestError(f"priority is {priority!r}; it must be an integer from 0 to {MAX_PRIORITY}")


def _duration(name: str, value: Any) -> float:
    """Return the value of a parameter that is a duration: a number from 0 to `MAX_DURATION`.

    The client may send the number as a string.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise InvalidRequestError(f"{name} is {value!r}; it must be a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DURATION:
        raise InvalidRequestError(f"{name} is {value!r}; it must be a number from 0 to {MAX_DURATION:g}")
    return float(value)
