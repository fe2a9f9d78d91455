"""Arrival processes of open loops: the time from one request to the next.

A process is a function from the time of one request to the time of the next, in nanoseconds after the stream's start.
"""

from collections.abc import Callable
from math import inf
from random import Random

from clockwork.units import SECOND, Nanos

Process = Callable[[Nanos], Nanos]


def poisson(rate: float, rng: Random) -> Process:
    """Return a Poisson process: independent arrivals, ``rate`` per second on average."""
    draw, per_nano = rng.expovariate, rate / SECOND
    return lambda now: now + int(draw(per_nano)) + 1


def fixed(rate: float) -> Process:
    """Return evenly spaced arrivals. Rounding errors do not add up: the n-th request comes at n / rate."""
    count = 0

    def following(now: Nanos) -> Nanos:
        nonlocal count
        count += 1
        return round(count * SECOND / rate)

    return following


def gamma(rate: float, cv: float, rng: Random) -> Process:
    """Return arrivals with gamma-distributed gaps of coefficient of variation ``cv``; above 1 they come in bursts."""
    shape = 1 / (cv * cv)
    scale = SECOND / rate / shape
    return lambda now: now + int(rng.gammavariate(shape, scale)) + 1


def on_off(rate: float, on: Nanos, off: Nanos, rng: Random) -> Process:
    """Return a Poisson process of ``rate`` that alternates ``on`` with pauses of ``off``."""
    arrive, period = poisson(rate, rng), on + off

    def following(now: Nanos) -> Nanos:
        # With the pauses cut out, time is a Poisson process; the last line puts the pauses back.
        at = arrive(now // period * on + min(now % period, on))
        return at // on * period + at % on

    return following


def ramp(rate: float, rate_end: float, length: Nanos, rng: Random) -> Process:
    """Return a Poisson process whose rate changes linearly from ``rate`` to ``rate_end`` over ``length``, by thinning.

    Arrivals after ``length`` are not thinned: near rate 0 thinning would not end.
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
    """Return a Poisson process whose rate is multiplied by ``factor`` every ``step``, until ``length``."""

    def following(now: Nanos) -> Nanos:
        # The process is memoryless, so the draw starts again at the end of each step, with the next rate.
        while now < length:
            number = now // step
            end = (number + 1) * step
            per_nano = rate * factor**number / SECOND
            gap = rng.expovariate(per_nano) if per_nano > 0 else inf  # a falling rate may underflow to 0
            if gap < end - now and (at := now + int(gap) + 1) < end:
                return at
            now = end
        return now

    return following
