"""Remembers refusals, so that the requests that one turn of the event loop reads cost only one decision per model.

A decision takes several microseconds, because it needs the model's execution time. Under overload, one turn reads
hundreds of requests for the same model. If one of these requests is refused, a request that arrived no later and has no
longer SLO is refused as well, as long as the queue does not become shorter.
"""

from msgspec import Struct

from clockwork.controller.shedding import MAX_URGENT_SLO, Shed, Shedder
from clockwork.net.arrival import Arrivals
from clockwork.units import Nanos


class _Verdict(Struct):
    """A refusal. It applies to requests with an SLO from ``fastest`` to ``slo`` that arrived by ``arrival``.

    ``wait`` is the predicted wait in the inbox. The other fields are the state of the `Shedder`.
    """

    fastest: Nanos
    slo: Nanos
    arrival: Nanos
    wait: Nanos
    retry_after: Nanos | None
    urgent: int
    patient: int
    cost: Nanos


class Verdicts:
    """The refusals of one turn of the event loop. The first use in another turn forgets them."""

    def __init__(self, shedder: Shedder, arrivals: Arrivals) -> None:
        """Start with no refusals. ``arrivals`` counts the turns."""
        self._shedder = shedder
        self._arrivals = arrivals
        self._turn = arrivals.turn
        self._kept: dict[tuple[str, str], _Verdict] = {}

    def find(self, now: Nanos, key: tuple[str, str], arrival: Nanos, slo: Nanos) -> Shed | None:
        """Return a new refusal if a kept refusal applies to the request, or None if a decision is needed.

        ``key`` is the model and the version that the request names.
        """
        if self._turn != self._arrivals.turn:
            self._turn = self._arrivals.turn
            self._kept.clear()
            return None
        kept = self._kept.get(key)
        if kept is None or not kept.fastest <= slo <= kept.slo or arrival > kept.arrival:
            return None
        shedder = self._shedder
        if shedder.urgent < kept.urgent or shedder.patient < kept.patient or shedder.cost != kept.cost:
            return None
        return Shed(now - arrival + kept.wait, kept.retry_after)

    def keep(self, now: Nanos, key: tuple[str, str], arrival: Nanos, slo: Nanos, shed: Shed, fastest: Nanos) -> None:
        """Keep a refusal that has a retry time. ``fastest`` is the model's time on the fastest device, or 0."""
        shedder = self._shedder
        if slo <= MAX_URGENT_SLO and shed.wait is not None:
            wait = shed.wait - (now - arrival)
            self._kept[key] = _Verdict(
                fastest, slo, arrival, wait, shed.retry_after, shedder.urgent, shedder.patient, shedder.cost
            )
