"""When to destroy a session, so that no inference has to wait for it.

Theory of operation. ONNX Runtime's Python module makes sessions and runs them without the interpreter's lock, but
destroys them with it: 0.7 ms for DenseNet-121, whose graph has 557 nodes, and 55 us for each MB of packed or copied
weights. An inference that ends meanwhile waits for the lock, and a request that comes in. Just after an inference has
begun nobody needs it for a while: then a session is destroyed; if none begins for long, there is nobody to disturb.
"""

from threading import Event
from typing import Final

WAIT_MAX: Final = 0.005
"""Seconds. If no inference begins for so long, those that run are long, and it is unlikely that one ends just then."""

IDLE_WAIT_MAX: Final = 0.002
"""Seconds to wait if none runs: a LoadWeights may wait for the memory."""


class Calm:
    """Knows when inferences begin. `begins` and `ends` are called by EXEC threads, `wait` by others.

    The list and the flag are changed by single operations, which the interpreter's lock makes atomic.
    """

    def __init__(self) -> None:
        self._running: list[None] = []
        self._waiting: list[Event] = []

    def begins(self) -> None:
        """An inference begins: the next thing that it does is to give the interpreter's lock away."""
        self._running.append(None)
        if self._waiting:
            for event in tuple(self._waiting):
                event.set()

    def ends(self) -> None:
        """It is over."""
        self._running.pop()

    def wait(self) -> None:
        """Return just after an inference has begun, or when there is none to wait for."""
        event = Event()
        self._waiting.append(event)
        event.wait(WAIT_MAX if self._running else IDLE_WAIT_MAX)
        self._waiting.remove(event)
