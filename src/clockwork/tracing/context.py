"""Reads trace contexts (W3C Trace Context), and decides which requests are sampled."""

from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.messages.request_ids import parsed_traceparent

ALWAYS_ON: Final = "always_on"
ALWAYS_OFF: Final = "always_off"
RATIO: Final = "traceidratio"
PARENT_BASED: Final = "parentbased_"

SAMPLERS: Final = tuple(prefix + name for prefix in ("", PARENT_BASED) for name in (ALWAYS_ON, ALWAYS_OFF, RATIO))
"""The values of ``OTEL_TRACES_SAMPLER`` that are supported."""

DEFAULT_SAMPLER: Final = PARENT_BASED + ALWAYS_ON
"""Sampler of the OpenTelemetry specification if ``OTEL_TRACES_SAMPLER`` is not set."""

MAX_TRACESTATE: Final = 512
"""Longest ``tracestate`` in characters that is passed on. The specification requires at least this length."""

_SAMPLED: Final = 1
_LOW_64_BITS: Final = 2**64 - 1


class Parent(Struct, frozen=True):
    """The span of a client in which it sent a request. ``state`` is the value of ``tracestate``."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""


def parent_of(traceparent: str, tracestate: str = "") -> Parent | None:
    """Return the client's span, or None if the value of ``traceparent`` is missing or invalid."""
    found = parsed_traceparent(traceparent) if traceparent else None
    if found is None:
        return None
    state = tracestate if len(tracestate) <= MAX_TRACESTATE else ""
    return Parent(int(found.trace_id, 16), int(found.span_id, 16), bool(int(found.flags, 16) & _SAMPLED), state)


class Sampling(Struct, frozen=True):
    """Decides which requests are sampled.

    - ``bound``: a request is sampled if the low 64 bits of its trace id are less than ``bound``
    - ``follows_parent``: whether the client's decision applies if the client has sent one
    """

    bound: int
    follows_parent: bool

    def takes(self, trace_id: int, parent: Parent | None) -> bool:
        """Return whether a request is sampled."""
        if parent is not None and self.follows_parent:
            return parent.sampled
        return trace_id & _LOW_64_BITS < self.bound


def sampling(sampler: str, argument: str = "") -> Sampling:
    """Return the decision of a sampler. The arguments are the values of ``OTEL_TRACES_SAMPLER`` and its argument.

    Raises:
        InvalidRequestError: the sampler is unknown, or its argument is not a ratio.
    """
    sampler = sampler or DEFAULT_SAMPLER
    if sampler not in SAMPLERS:
        raise InvalidRequestError(f"OTEL_TRACES_SAMPLER is {sampler!r}; expected one of: {', '.join(SAMPLERS)}")
    name = sampler.removeprefix(PARENT_BASED)
    ratio = 1.0 if name == ALWAYS_ON else 0.0
    if name == RATIO:
        ratio = _ratio(argument)
    return Sampling(round(ratio * 2**64), sampler.startswith(PARENT_BASED))


def _ratio(text: str) -> float:
    try:
        ratio = float(text or "1")
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise InvalidRequestError(f"OTEL_TRACES_SAMPLER_ARG is {text!r}; it must be a number from 0 to 1")
    return ratio
