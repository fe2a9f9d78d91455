"""The type of long work that is done in short steps: a generator that yields after each step.

The code that does the work stays pure, because its caller decides what happens between two steps. `clockwork.stepping`
runs the steps on an event loop, between other work. `at_once` runs the steps without a pause.
"""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""A generator that yields after each step, and returns a result. A step should take at most half a millisecond."""


def at_once(steps: Steps[T]) -> T:
    """Run all steps without a pause, and return the result.

    Raises:
        Exception: any exception that a step raises.
    """
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
