"""Where requests of every protocol come in: when they arrived, which are refused at once, when the others are handled.

Rules of the file: a front end asks `Reception.refuses` as soon as it knows the model, before it parses or receives
more. A request that is refused here has cost as little as possible, and is counted all the same.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from clockwork.clock import Clock
from clockwork.controller.config import ControllerConfig
from clockwork.controller.shedding import MIN_RETRY, Shed
from clockwork.controller.throttling import Throttle
from clockwork.host.backpressure import Backpressure
from clockwork.host.cpu_usage import CpuUsage
from clockwork.host.inbox import Handle, Inbox, Waiting
from clockwork.net.arrival import Arrivals
from clockwork.state import ModelState
from clockwork.units import MILLISECOND, Nanos

REMEMBERED_SLOS: Final = 16
"""SLOs remembered of each model; the longest counts where a request's own is not known yet."""

BUSY: Final = 0.85
"""Share of the server's time in use above which the server is taken for the bottleneck."""

LATENCY_RESERVE: Final = 1.5
"""Times the mean latency that a request must have left when it is taken from a transport that hides its wait."""

MIN_LATENCY_SHARE: Final = 0.25
"""Times the mean latency that a request needs at least, once it is taken in."""

LATENCY_WEIGHT: Final = 0.02
"""Weight of one success in the mean latency."""

BUSY_FOR: Final[Nanos] = 100 * MILLISECOND
"""A measurement counts for this long."""

MAX_MODELS: Final = 10_000
"""Models whose SLOs are remembered; only models that have answered are, so clients cannot fill the table."""


class _Answers:
    """The last requests that a model has answered."""

    __slots__ = ("_slos", "latency", "longest_slo")

    def __init__(self) -> None:
        self._slos: deque[Nanos] = deque(maxlen=REMEMBERED_SLOS)
        self.longest_slo: Nanos = 0
        self.latency: Nanos = 0  #: moving average of the time from arrival to success; 0: not known

    def add_slo(self, slo: Nanos) -> None:
        slos = self._slos
        dropped = slos[0] if len(slos) == REMEMBERED_SLOS else 0
        slos.append(slo)
        if slo >= self.longest_slo:
            self.longest_slo = slo
        elif dropped == self.longest_slo:
            self.longest_slo = max(slos)


class Reception:
    """One for all front ends of an event loop; to be used on its thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        config: ControllerConfig,
        on_shed: Callable[[dict[str, int]], None],
        on_load: Callable[[float], None],
        throttle: Throttle,
        model: Callable[[str], ModelState | None] = lambda name: None,
    ) -> None:
        """``on_shed`` receives the number of requests refused here by model, at most once per turn of the loop.

        ``throttle`` is the controller's. ``model`` returns a model that is served. ``on_load`` receives the share of
        the server's time in use, while requests come; see `CpuUsage`.
        """
        self.arrivals = Arrivals(loop, clock)
        self.inbox = Inbox(loop, clock)
        self.backpressure = Backpressure(loop, self.arrivals)
        self.busy = CpuUsage(clock.now())
        self.clock = clock
        self._shedder = self.inbox.shedder
        self._loop = loop
        self._config = config
        self._on_shed = on_shed
        self._on_load = on_load
        self._throttle = throttle
        self._model = model
        self._latency: Nanos = 0  #: moving average of the time from arrival to success
        self._busy_until: Nanos = 0  #: the server was busy lately, and counts as busy until then; 0: it was not
        self._shed: dict[str, int] = {}
        self._answers: dict[str, _Answers] = {}  #: by model; of models that have answered

    def is_behind(self, now: Nanos | None = None) -> bool:
        """Return whether the server is the bottleneck; otherwise no request is refused here.

        ``now``: the time, if the caller knows it.
        """
        shedder = self._shedder
        if shedder.urgent or shedder.patient or self.backpressure.is_needed:
            return True
        return self._busy_until > 0 and (self.clock.now() if now is None else now) < self._busy_until

    def refuses(self, model: str, arrival: Nanos, slo: Nanos | None = None, *, large: bool = False) -> Shed | None:
        """Return why a request must be refused now, or None. A refusal is counted.

        ``slo``: as the request states it; None: not known yet, then the longest of the model's last ones counts, or
        the default. ``large``: it costs much to receive, so it is refused if the scheduler would hardly admit it.
        """
        now = self.clock.now()
        if not self.is_behind(now):
            return None
        shed = self.check(now, model, arrival, slo)
        if shed is None and large and now < self._busy_until:
            retry = self._throttle.refuses(now, model, self._slo(model) if slo is None else slo)
            shed = None if retry is None else Shed(None, retry)
        if shed is not None:
            self.count_refused(model)
        return shed

    def check(self, now: Nanos, model: str, arrival: Nanos, slo: Nanos | None) -> Shed | None:
        """Return why a request must be refused now, or None, while `is_behind`; see `refuses`. Nothing is counted."""
        if slo is None:
            return self._shedder.refuses(now, arrival, self._slo(model))
        answers = self._answers.get(model)
        least = 0 if answers is None else int(MIN_LATENCY_SHARE * answers.latency)
        return self._shedder.refuses(now, arrival, slo, least)

    def refuses_late(self, remaining: Nanos) -> Shed | None:
        """Return why a request with so little time left must be refused, or None; to be called while `is_behind`.

        For transports in which a request waits where it cannot be seen, so that only its deadline tells how long.
        """
        wait = self._shedder.wait(remaining)
        if remaining >= wait + int(LATENCY_RESERVE * self._latency):
            return None
        self.count_refused("")
        return Shed(wait, max(MIN_RETRY, wait))

    def note_latency(self, latency: Nanos) -> None:
        """A request was answered, so long after it arrived."""
        self._latency += int(LATENCY_WEIGHT * (latency - self._latency))

    def put(self, handle: Handle, model: str, slo: Nanos | None = None) -> Waiting | None:
        """Have a request taken in; see `Inbox.put`. ``slo`` is as for `refuses`."""
        return self.inbox.put(handle, self._slo(model) if slo is None else slo)

    def _slo(self, model: str) -> Nanos:
        """The SLO of a request whose own is not known: the longest of the model's last ones, or the default."""
        answers = self._answers.get(model)
        return self.default_slo(model) if answers is None else answers.longest_slo

    def measure(self) -> None:
        """Report how busy the server is, if it is time for that."""
        now = self.clock.now()
        busy = self.busy.sample(now)
        if busy is not None:
            if busy > BUSY:
                self._busy_until = now + BUSY_FOR
            elif self._busy_until <= now:
                self._busy_until = 0
            self._on_load(busy)

    def default_slo(self, model: str) -> Nanos:
        """Return the SLO of requests for the model that state none."""
        config = self._config
        slo = config.model_slos.get(model)
        if slo is None and config.model_slos and (found := self._model(model)) is not None:
            slo = config.model_slos.get(found.info.load)  # a copy of it
        return slo or config.default_slo

    def note_slo(self, model: str, slo: Nanos | None, latency: Nanos | None = None) -> None:
        """Remember the SLO of a request that a model of this server has answered; None: it stated none.

        ``latency``: the time from its arrival to its success, if that is known.
        """
        answers = self._answers.get(model)
        if answers is None:
            if len(self._answers) >= MAX_MODELS:
                return
            answers = self._answers[model] = _Answers()
        answers.add_slo(self.default_slo(model) if slo is None else slo)
        if latency is not None:
            mean = answers.latency or latency
            answers.latency = mean + int(LATENCY_WEIGHT * (latency - mean))

    def has_answered(self, model: str) -> bool:
        """Return whether the name is that of a model that has answered a request."""
        return model in self._answers

    def close(self) -> None:
        """Give the file descriptor back."""
        self.arrivals.close()

    def count_refused(self, model: str) -> None:
        """Count a request that is refused here."""
        if not self._shed:
            self._loop.call_soon(self._tell)
        key = model if model in self._answers else ""  # names that no model has are counted together
        self._shed[key] = self._shed.get(key, 0) + 1

    def _tell(self) -> None:
        shed, self._shed = self._shed, {}
        self._on_shed(shed)
