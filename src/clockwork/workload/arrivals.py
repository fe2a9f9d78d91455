"""Arrival processes, which determine the times at which an open loop sends its requests.

A process is a function that gets the time of one request and returns the time of the next request. Both times are in
nanoseconds after the start of the stream.
"""

from collections.abc import Callable
from math import inf
from random import Random

from clockwork.units import SECOND, Nanos

Process = Callable[[Nanos], Nanos]


def poisson(rate: float, rng: Random) -> Process:
    """Return a Poisson process with independent arrivals and an average of ``rate`` arrivals per second."""
    draw, per_nano = rng.expovariate, rate / SECOND
    return lambda now: now + int(draw(per_nano)) + 1


def fixed(rate: float) -> Process:
    """Return a process with evenly spaced arrivals.

    Rounding errors do not add up, because request n arrives at n / rate.
    """
    count = 0

    def following(now: Nanos) -> Nanos:
        nonlocal count
        count += 1
        return round(count * SECOND / rate)

    return following


def gamma(rate: float, cv: float, rng: Random) -> Process:
    """Return a process whose gaps follow a gamma distribution with the coefficient of variation ``cv``.

    With a ``cv`` above 1, arrivals come in bursts.
    """
    shape = 1 / (cv * cv)
    scale = SECOND / rate / shape
    return lambda now: now + int(rng.gammavariate(shape, scale)) + 1


def on_off(rate: float, on: Nanos, off: Nanos, rng: Random) -> Process:
    """Return a Poisson process that alternates: it is active for ``on``, and then pauses for ``off``."""
    arrive, period = poisson(rate, rng), on + off

    def following(now: Nanos) -> Nanos:
        # First, the arrivals are drawn as if there were no pauses. The last line of this function inserts the pauses.
        at = arrive(now // period * on + min(now % period, on))
        return at // on * period + at % on

    return following


def ramp(rate: float, rate_end: float, length: Nanos, rng: Random) -> Process:
    """Return a Poisson process whose rate changes linearly from ``rate`` to ``rate_end`` over ``length``.

    The arrivals are drawn at the highest rate and then thinned. After ``length``, the rate is constant and arrivals are
    not thinned, because thinning near rate 0 would not end.
    """
    most = max(rate, rate_end)
    arrive = poisson(most, rng)

    def following(now: Nanos) -> Nanos:
        while True:
            now = arrive(now)
            if now >= length or rng.random() * most <= rate + (rate_end - rate) * (now / length):
                return now

    return following


def steps(rate: float, factor: float, step: Nanos, length: Nanos, rng: Random) -> Process:
    """Return a Poisson process whose rate is multiplied by ``factor`` after every ``step`` until ``length``."""

    def following(now: Nanos) -> Nanos:
        # A Poisson process has no memory. So the draw can start again at the end of each step, with the next rate.
        while now < length:
            number = now // step
            end = (number + 1) * step
            per_nano = rate * factor**number / SECOND
            gap = rng.expovariate(per_nano) if per_nano > 0 else inf  # a decreasing rate may underflow to 0
            if gap < end - now and (at := now + int(gap) + 1) < end:
                return at
            now = end
        return now

    return following
