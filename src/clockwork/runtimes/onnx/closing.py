"""Chooses the moment to destroy a session, so that no inference has to wait.

Theory of operation. ONNX Runtime's Python module makes and runs sessions without the interpreter's lock, but it holds
the lock while it destroys a session. Destroying a session takes 0.7 ms for DenseNet-121, whose graph has 557 nodes, and
55 us for each MB of packed or copied weights. During this time, an inference that has ended and a request that has
arrived must wait for the lock. Just after an inference has begun, no other thread needs the lock for a while. So a
session is destroyed just after an inference has begun. If no inference begins within some milliseconds, the session is
destroyed without waiting longer.
"""

from threading import Event
from typing import Final

MAX_WAIT: Final = 0.005
"""Longest wait in seconds while inferences run.

If no inference begins within this time, the running inferences are long. In this case, it is unlikely that an inference
ends while the session is being destroyed.
"""

MAX_IDLE_WAIT: Final = 0.002
"""Longest wait in seconds while no inference runs. The wait is short, because a LoadWeights action may need the memory.
"""


class CloseTiming:
    """Records when inferences begin, and lets other threads wait until an inference begins.

    EXEC threads call `inference_begins` and `inference_ends`. Threads that destroy sessions call `wait`. The class
    needs no lock of its own, because each change of its lists is one operation, which is atomic in CPython.
    """

    def __init__(self) -> None:
        self._running: list[None] = []
        self._waiting: list[Event] = []

    def inference_begins(self) -> None:
        """Record that an inference begins. The caller is about to release the interpreter's lock."""
        self._running.append(None)
        if self._waiting:
            for event in tuple(self._waiting):
                event.set()

    def inference_ends(self) -> None:
        """Record that an inference has ended."""
        self._running.pop()

    def wait(self) -> None:
        """Return just after an inference has begun, or at the latest after `MAX_WAIT` or `MAX_IDLE_WAIT`."""
        event = Event()
        self._waiting.append(event)
        event.wait(MAX_WAIT if self._running else MAX_IDLE_WAIT)
        self._waiting.remove(event)
