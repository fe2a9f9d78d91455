"""Receives the requests of all protocols.

The reception knows the arrival times of requests, refuses some requests at once, and queues the others.

A front end calls `Reception.refuses` as soon as it knows the model of a request, before it receives or parses the rest.
So an early refusal costs as little as possible. Early refusals are counted in the same way as refusals by the
scheduler.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from clockwork.clock import Clock
from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import RequestsShed, ShedRequest
from clockwork.controller.recording import Sampler
from clockwork.controller.shedding import Shed
from clockwork.controller.throttling import Throttle
from clockwork.host.backpressure import Backpressure
from clockwork.host.cpu_usage import CpuUsage
from clockwork.host.inbox import Handle, Inbox, Waiting
from clockwork.host.request_ids import RequestIds
from clockwork.host.verdicts import Verdicts
from clockwork.messages.requests import InferRequest
from clockwork.net.arrival import Arrivals
from clockwork.net.outbox import Outbox
from clockwork.state import ModelState
from clockwork.units import MILLISECOND, Nanos

REMEMBERED_SLOS: Final = 16
"""Number of recent SLOs that are stored per model. If the SLO of a new request is not known yet, the longest stored SLO
is assumed.
"""

BUSY: Final = 0.85
"""If the server uses more than this share of its processor time, the server itself counts as the bottleneck."""

MIN_LATENCY_SHARE: Final = 0.25
"""Time that a request is assumed to need after it is taken from the inbox, as a share of the model's mean latency."""

LATENCY_WEIGHT: Final = 0.02
"""Weight of one successful request in the moving average of the latency."""

BUSY_FOR: Final[Nanos] = 100 * MILLISECOND
"""Time for which the server counts as busy after a measurement above `BUSY`."""

FASTEST_FOR: Final[Nanos] = 100 * MILLISECOND
"""Time for which a model's time on the fastest device is used for refusals before it is determined again."""

MAX_MODELS: Final = 10_000
"""Limit of the number of models whose SLOs are stored. Above this limit, the oldest models are forgotten.

Only models that have answered a request are stored. So clients cannot fill the table with invented names.
"""

Key: TypeAlias = tuple[str, str]
"""A model's name, and the version in a request: a number, a label, or an empty text for the default version."""


class _Answers:
    """The recent SLOs of a model, and its mean latency."""

    __slots__ = ("_slos", "fastest", "fastest_until", "latency", "longest_slo")

    def __init__(self) -> None:
        self._slos: deque[Nanos] = deque(maxlen=REMEMBERED_SLOS)
        self.longest_slo: Nanos = 0
        self.fastest: Nanos = 0  #: time of one row on the fastest device; 0: unknown
        self.fastest_until: Nanos = 0  #: time until which ``fastest`` is used
        self.latency: Nanos = 0  #: moving average of the time from arrival to success; 0: unknown

    def add_slo(self, slo: Nanos) -> None:
        slos = self._slos
        dropped = slos[0] if len(slos) == REMEMBERED_SLOS else 0
        slos.append(slo)
        if slo >= self.longest_slo:
            self.longest_slo = slo
        elif dropped == self.longest_slo:
            self.longest_slo = max(slos)


class Reception:
    """The reception of one event loop, which all front ends share. Call the methods on the thread of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        config: ControllerConfig,
        on_shed: Callable[[RequestsShed], None],
        on_load: Callable[[float], None],
        throttle: Throttle,
        model: Callable[[str, str], ModelState | None] = lambda name, version: None,
    ) -> None:
        """Start with no requests.

        Args:
            loop: the running event loop.
            clock: the host's clock.
            config: contains the default SLOs.
            on_shed: gets the early refusals, at most once per turn of the loop.
            on_load: gets the share of processor time in use (see `CpuUsage`) while requests arrive.
            throttle: the controller's throttle.
            model: returns the load that serves a model and version.
        """
        self.arrivals = Arrivals(loop, clock)
        self.outbox = Outbox(loop)
        self.inbox = Inbox(loop, clock, self.outbox.flush)
        self.backpressure = Backpressure(loop, self.arrivals)
        self.cpu_usage = CpuUsage(clock.now())
        self.clock = clock
        self.request_ids = RequestIds()
        self._shedder = self.inbox.shedder
        self._verdicts = Verdicts(self._shedder, self.arrivals)
        self._loop = loop
        self._config = config
        self._on_shed = on_shed
        self._on_load = on_load
        self._throttle = throttle
        self._model = model
        self._busy_until: Nanos = 0  #: time until which the server counts as busy; 0: it was not busy lately
        self._shed: dict[Key, int] = {}
        self._shed_sampled: list[ShedRequest] = []
        self._sampler = Sampler()
        self._answers: dict[Key, _Answers] = {}

    def is_behind(self, now: Nanos | None = None) -> bool:
        """Return whether the server itself, and not the devices, is the bottleneck.

        The reception refuses requests only if the server is the bottleneck.

        ``now`` is the current time, if the caller knows it.
        """
        shedder = self._shedder
        if shedder.urgent or shedder.patient or self.backpressure.is_needed:
            return True
        return self._busy_until > 0 and (self.clock.now() if now is None else now) < self._busy_until

    def refuses(
        self, model: str, arrival: Nanos, slo: Nanos | None = None, *, large: bool = False, version: str = ""
    ) -> Shed | None:
        """Return a refusal if a request must be refused now, or None. The refusal gets an id, and is counted.

        ``slo`` is the request's own SLO. None means that the SLO is not known yet. For an unknown SLO, the longest of
        the model's recent SLOs is assumed, or the default SLO. ``large`` means that the request is expensive to
        receive, and is refused if the scheduler is unlikely to admit it.
        """
        now = self.clock.now()
        if not self.is_behind(now):
            return None
        shed = self.check(now, model, arrival, slo, version)
        if shed is None and large and now < self._busy_until and (found := self._model(model, version)) is not None:
            retry = self._throttle.refuses(now, found.name, self._slo(model, version) if slo is None else slo)
            shed = None if retry is None else Shed(None, retry)
            if shed is not None and slo is not None and (fastest := self._fastest(now, model, version)) > slo:
                shed = Shed(None, None, fastest)
        return None if shed is None else self.count_refused(shed, now, model, version, arrival, slo)

    def refuses_native(self, request: InferRequest, arrival: Nanos) -> Shed | None:
        """Return the refusal of a request of the native protocol, or None; see `refuses`.

        The caller must know that `is_behind` is true. A request that is refused gets an id.
        """
        now, slo = self.clock.now(), self.stated_slo(request)
        shed = self.check(now, request.model, arrival, slo, request.version)
        if shed is None:
            return None
        shed.request_id = self.request_ids.named(request).request_id
        return self.count_refused(shed, now, request.model, request.version, arrival, slo)

    def check(self, now: Nanos, model: str, arrival: Nanos, slo: Nanos | None, version: str = "") -> Shed | None:
        """Return what `refuses` returns, but do not count the refusal, and ignore the throttle.

        The caller must know that `is_behind` is true.
        """
        if slo is None:
            return self._shedder.refuses(now, arrival, self._slo(model, version))
        key = (model, version)
        kept = self._verdicts.find(now, key, arrival, slo)
        if kept is not None:
            return kept
        answers = self._answers.get(key)
        least = 0 if answers is None else int(MIN_LATENCY_SHARE * answers.latency)
        shed = self._shedder.refuses(now, arrival, slo, least)
        if shed is None:
            return None
        fastest = self._fastest(now, model, version)
        if fastest > slo:
            return Shed(None, None, fastest)
        self._verdicts.keep(now, key, arrival, slo, shed, fastest)
        return shed

    def _fastest(self, now: Nanos, model: str, version: str) -> Nanos:
        """Return the model's time on the fastest device, or 0 if it is unknown. A shorter SLO cannot be met."""
        answers = self._answers.get((model, version))
        if answers is not None and now < answers.fastest_until:
            return answers.fastest
        found = self._model(model, version)
        fastest = 0 if found is None or not found.profiles else found.infer_estimate(1)
        if answers is not None:
            answers.fastest, answers.fastest_until = fastest, now + FASTEST_FOR
        return fastest

    def put(self, handle: Handle, model: str, slo: Nanos | None = None, version: str = "") -> Waiting | None:
        """Handle a request now or queue it; see `Inbox.put`. For ``slo``, see `refuses`."""
        return self.inbox.put(handle, self._slo(model, version) if slo is None else slo)

    def _slo(self, model: str, version: str) -> Nanos:
        """Return the SLO to assume for a request: the longest of the model's recent SLOs, or the default SLO."""
        answers = self._answers.get((model, version))
        return self.default_slo(model) if answers is None else answers.longest_slo

    def measure(self) -> None:
        """Measure how busy the server is, and report it. Do nothing if the last measurement is recent."""
        now = self.clock.now()
        busy = self.cpu_usage.sample(now)
        if busy is not None:
            if busy > BUSY:
                self._busy_until = now + BUSY_FOR
            elif self._busy_until <= now:
                self._busy_until = 0
            self._on_load(busy)

    def default_slo(self, model: str) -> Nanos:
        """Return the SLO of the model's requests that set no SLO."""
        config = self._config
        slo = config.model_slos.get(model)
        if slo is None and config.model_slos and (found := self._model(model, "")) is not None:
            slo = config.model_slos.get(found.info.load)  # copies of a model share the SLO of their load
        return slo or config.default_slo

    def stated_slo(self, request: InferRequest) -> Nanos | None:
        """Return the SLO of a request of the native protocol. None means that the model determines the SLO."""
        if request.slo is None and request.slo_factor is None:
            return self.default_slo(request.model)
        return request.slo

    def note_slo(self, model: str, slo: Nanos | None, latency: Nanos | None = None, *, version: str = "") -> None:
        """Store the SLO of a request that was answered by a model. None means that the request set no SLO.

        ``latency`` is the time from the request's arrival to its success, if known.
        """
        answers = self._answers.get((model, version))
        if answers is None:
            if len(self._answers) >= MAX_MODELS:
                del self._answers[next(iter(self._answers))]
            answers = self._answers[model, version] = _Answers()
        answers.add_slo(self.default_slo(model) if slo is None else slo)
        if latency is not None:
            mean = answers.latency or latency
            answers.latency = mean + int(LATENCY_WEIGHT * (latency - mean))

    def has_answered(self, model: str, version: str = "") -> bool:
        """Return whether a model has answered a request with this name and version."""
        return (model, version) in self._answers

    def close(self) -> None:
        """Close the file descriptor that is used to measure arrival times."""
        self.arrivals.close()

    def count_refused(
        self, shed: Shed, now: Nanos, model: str, version: str, arrival: Nanos, slo: Nanos | None
    ) -> Shed:
        """Count a request that was refused before it was handled. Return the refusal, with the id of the request.

        Some of these requests are recorded, so that they can be explained.
        """
        if not self._shed:
            self._loop.call_soon(self._report_shed)
        if not shed.request_id:
            shed.request_id = self.request_ids.next()
        key = (model, version) if (model, version) in self._answers else ("", "")  # unknown models count together
        self._shed[key] = self._shed.get(key, 0) + 1
        if self._sampler.takes(now):
            self._shed_sampled.append(
                ShedRequest(shed.request_id, key[0], now, now - arrival, slo or 0, shed.message, shed.retry_after)
            )
        return shed

    def _report_shed(self) -> None:
        event = RequestsShed(self._shed, tuple(self._shed_sampled))
        self._shed, self._shed_sampled = {}, []
        self._on_shed(event)
