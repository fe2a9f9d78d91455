"""Long work is written as a generator that yields after each short step.

The code that does the work stays pure, because its caller decides what happens between two steps. `clockwork.stepping`
runs steps on an event loop, between other work; `at_once` runs them without a pause.
"""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Work that yields after each step and returns its result. A step takes at most about half a millisecond."""


def at_once(steps: Steps[T]) -> T:
    """Run all steps without a pause and return the result.

    Raises:
        Exception: a step raised it.
    """
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
