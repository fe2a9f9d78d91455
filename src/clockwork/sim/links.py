"""Simulates links. Messages arrive in order after a delay with jitter.

A link is one direction of a TCP connection. While the connection exists, a lost message is sent again, so a loss only
delays this message and later messages. When the connection ends, messages in flight are lost.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct

from clockwork.sim.loop import Loop
from clockwork.units import MILLISECOND, Nanos


class LinkModel(Struct, frozen=True):
    """The delays of a link. Each message takes ``delay``, plus up to ``jitter``.

    The share ``loss`` of the messages takes ``resend`` in addition.
    """

    delay: Nanos = MILLISECOND // 10
    jitter: Nanos = 0
    loss: float = 0.0
    resend: Nanos = 200 * MILLISECOND


class Link:
    """One direction of a connection."""

    __slots__ = ("_arrival", "_deliver", "_generation", "_loop", "_model", "_rng", "_stalled_until")

    def __init__(self, loop: Loop, model: LinkModel, rng: Random, deliver: Callable[[Any], None]) -> None:
        """``deliver(message)`` is called whenever a message arrives."""
        self._loop = loop
        self._model = model
        self._rng = rng
        self._deliver = deliver
        self._arrival: Nanos = 0  #: arrival of the message that was sent last
        self._stalled_until: Nanos = 0
        self._generation = 0

    def send(self, message: Any) -> None:
        """Send a message."""
        model, now = self._model, self._loop.now
        arrival = max(now, self._stalled_until) + model.delay
        if model.jitter:
            arrival += int(self._rng.random() * model.jitter)
        if model.loss and self._rng.random() < model.loss:
            arrival += model.resend
        self._arrival = arrival = max(arrival, self._arrival)
        self._loop.at(arrival, self._arrive, (self._generation, message))

    def stall(self, until: Nanos) -> None:
        """Deliver no message that is sent from now on before ``until``. Messages in flight still arrive."""
        self._stalled_until = until

    def cut(self) -> None:
        """End the connection. Messages in flight are lost. Later messages belong to a new connection."""
        self._generation += 1
        self._arrival = 0

    def _arrive(self, sent: Any) -> None:
        generation, message = sent
        if generation == self._generation:
            self._deliver(message)
