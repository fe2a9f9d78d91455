"""Arrival processes of open loops: the time from one request to the next.

A process is a function from a moment to the next; moments are nanoseconds after the stream's start.
"""

from collections.abc import Callable
from math import inf
from random import Random

from clockwork.units import SECOND, Nanos

Process = Callable[[Nanos], Nanos]


def poisson(rate: float, rng: Random) -> Process:
    """Independent arrivals, ``rate`` a second."""
    draw, per_nano = rng.expovariate, rate / SECOND
    return lambda now: now + int(draw(per_nano)) + 1


def fixed(rate: float) -> Process:
    """Evenly spaced. Exact in the long run: the n-th comes at n / rate."""
    count = 0

    def following(now: Nanos) -> Nanos:
        nonlocal count
        count += 1
        return round(count * SECOND / rate)

    return following


def gamma(rate: float, cv: float, rng: Random) -> Process:
    """Gaps of a gamma distribution with coefficient of variation ``cv``: above 1 they come in bursts."""
    shape = 1 / (cv * cv)
    scale = SECOND / rate / shape
    return lambda now: now + int(rng.gammavariate(shape, scale)) + 1


def on_off(rate: float, on: Nanos, off: Nanos, rng: Random) -> Process:
    """Poisson at ``rate`` for ``on``, then nothing for ``off``, and so on."""
    arrive, period = poisson(rate, rng), on + off

    def following(now: Nanos) -> Nanos:
        # Time that is on, in a row, is a Poisson process; then the breaks are put back in.
        at = arrive(now // period * on + min(now % period, on))
        return at // on * period + at % on

    return following


def ramp(rate: float, rate_end: float, length: Nanos, rng: Random) -> Process:
    """Poisson at a rate that goes from ``rate`` to ``rate_end`` in a line over ``length`` (by thinning).

    It ends with ``length``: what comes then is not thinned, for towards 0 there would be no end to that.
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
    """Poisson at a rate that is multiplied by ``factor`` every ``step``; it ends with ``length``."""

    def following(now: Nanos) -> Nanos:
        # Memoryless: at the end of a step the draw begins anew at the next rate.
        while now < length:
            number = now // step
            end = (number + 1) * step
            per_nano = rate * factor**number / SECOND
            gap = rng.expovariate(per_nano) if per_nano > 0 else inf  # a rate may fall until it is 0
            if gap < end - now and (at := now + int(gap) + 1) < end:
                return at
            now = end
        return now

    return following
