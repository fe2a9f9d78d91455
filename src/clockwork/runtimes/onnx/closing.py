"""When to destroy a session, so that no inference has to wait for it.

Theory of operation. ONNX Runtime's Python module makes and runs sessions without the interpreter's lock, but it
destroys them with the lock held: 0.7 ms for DenseNet-121, whose graph has 557 nodes, and 55 us for each MB of packed or
copied weights. An inference that ends in that time, or a request that arrives, waits for the lock. Just after an
inference has begun, no other thread needs the lock for a while, so a session is destroyed then. If no inference begins
for some milliseconds, the session is destroyed anyway.
"""

from threading import Event
from typing import Final

MAX_WAIT: Final = 0.005
"""Longest wait in seconds while inferences run. If no further inference begins in this time, inferences are long, so
one is unlikely to end just while the session is destroyed."""

MAX_IDLE_WAIT: Final = 0.002
"""Longest wait in seconds while no inference runs; short, because a LoadWeights may be waiting for the memory."""


class CloseTiming:
    """Knows when inferences begin. EXEC threads call `inference_begins` and `inference_ends`; others call `wait`.

    The lists are changed by single operations only, which the interpreter's lock makes atomic.
    """

    def __init__(self) -> None:
        self._running: list[None] = []
        self._waiting: list[Event] = []

    def inference_begins(self) -> None:
        """Note that an inference begins: the caller is about to release the interpreter's lock."""
        self._running.append(None)
        if self._waiting:
            for event in tuple(self._waiting):
                event.set()

    def inference_ends(self) -> None:
        """Note that an inference has ended."""
        self._running.pop()

    def wait(self) -> None:
        """Return just after an inference has begun, or after `MAX_WAIT` or `MAX_IDLE_WAIT`."""
        event = Event()
        self._waiting.append(event)
        event.wait(MAX_WAIT if self._running else MAX_IDLE_WAIT)
        self._waiting.remove(event)
