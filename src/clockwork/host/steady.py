"""A process whose event loop, and whose threads, are to keep time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from clockwork.heap import give_back
from clockwork.host.priority import be_prompt

SWITCH_INTERVAL: Final = 0.0005
"""Seconds that a Python thread may make another wait for the interpreter's lock; the default is 5 ms."""

YOUNG: Final = 10_000
"""New objects after which the collector looks at them; the default, 700, are ten requests."""


@contextmanager
def steady() -> Iterator[None]:
    """No thread holds the interpreter for long, the calling one goes first, the collector looks at little.

    What is there already is there for good, and not looked at. Blocks as large as the inputs of a request are kept by
    the allocator: to get one from the system costs a page fault for every 4 KiB, 0.1 ms for an image.
    """
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *thresholds[1:])
    give_back()
    be_prompt()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        sys.setswitchinterval(interval)
