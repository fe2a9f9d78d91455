"""Clients as they are: their requests differ in shape and patience, they cancel, go away; an operator evicts.

The machines' invariants are checked after every event, the workers' too; at the end everything must be answered and
every picture of a device's memory be true.
"""

from random import Random
from typing import Final

from clockwork.controller.events import ClientLost, ClientRequest, Respond
from clockwork.messages.requests import CancelRequest, EvictRequest, InferRequest, InferResponse
from clockwork.messages.tensors import TensorInfo, TensorSpec, spec
from clockwork.paced.models import PacedModel, constant_profile
from clockwork.scheduling.base import Scheduler
from clockwork.sim.cluster import Cluster
from clockwork.sim.loop import Loop
from clockwork.sim.watcher import Watcher
from clockwork.units import MIB, MILLISECOND, SECOND, Nanos, ms

LENGTH: Final[Nanos] = 800 * MILLISECOND
"""Of the load."""

SETTLE: Final[Nanos] = 2 * SECOND
"""Before the load, and after the last deadline: time to come to rest."""

REQUESTS: Final = 250
CLIENTS: Final = 3
EVICTIONS: Final = 6
CANCELLED_SHARE: Final = 0.2
SLOS: Final[tuple[Nanos, ...]] = (ms(0.5), ms(6), ms(25), ms(100), ms(100), ms(1000))
LENGTHS: Final = (8, 8, 16, 32)
"""Of sequences: the models' free dimension."""

PAGE: Final = 16 * MIB
_PROFILE: Final = constant_profile(ms(4), {1: ms(2), 2: ms(3), 4: ms(5)})
_SEQUENCE: Final = (TensorInfo("x", "FP32", (-1, -1)), TensorInfo("z", "INT64", (-1, -1)))
_WHOLE: Final = (TensorInfo("x", "FP32", (-1, 2)),)
_OUTPUT: Final = (TensorInfo("y", "FP32", (-1, 2)),)
MODELS: Final = (
    (PacedModel("free.onnx", "free", _PROFILE, PAGE, _SEQUENCE, _OUTPUT), 3),
    (PacedModel("whole.onnx", "whole", constant_profile(ms(4), {1: ms(7)}), 2 * PAGE, _WHOLE, _OUTPUT, False), 2),
    (PacedModel("plain.onnx", "plain", _PROFILE, PAGE, (TensorInfo("x", "FP32", (-1, 2)),), _OUTPUT), 1),
)
"""With free dimensions and batches; without batches; with neither, all the same."""

NAMES: Final = ("free-1", "free-2", "free-3", "whole-1", "whole-2", "plain")


class Clients:
    """Clients of a cluster of 2 workers with 2 devices, that have room for about half of the models. `run` once."""

    def __init__(self, scheduler: Scheduler, seed: int) -> None:
        """``seed`` decides everything."""
        self.loop = Loop()
        self.watcher = Watcher(every=1)
        self._rng = Random(f"clients {seed}")
        self.cluster = Cluster(
            self.loop,
            Random(seed),
            scheduler,
            list(MODELS),
            workers=2,
            devices=2,
            pages=4,
            watcher=self.watcher,
            on_response=self._answered,
        )
        self._waiting: dict[tuple[int, int], tuple[Nanos, Nanos]] = {}  #: (client, its request id) -> arrival, SLO
        self._gone: dict[int, None] = {}

    def run(self) -> "Clients":
        """Start-up, the load, and until everything is at rest; returns itself."""
        self.cluster.start()
        self._run_until(self.loop.now + SETTLE)
        begin = self.loop.now
        for request_id in range(1, REQUESTS + 1):
            self.loop.at(self._moment(begin), self._ask, request_id)
        for number in range(EVICTIONS):
            evict = EvictRequest(REQUESTS + 1 + number, self._rng.choice(NAMES))
            self.loop.at(self._moment(begin), self.cluster.feed, ClientRequest(0, evict))
        self.loop.at(self._moment(begin), self._go_away, CLIENTS)
        self._run_until(begin + LENGTH + max(SLOS) + SETTLE)
        self._check_rest()
        return self

    def _moment(self, begin: Nanos) -> Nanos:
        return begin + self._rng.randrange(LENGTH)

    def _run_until(self, until: Nanos) -> None:
        while (moment := self.loop.next_event()) is not None and moment <= until:
            self.loop.run(moment)
            for worker in self.cluster.workers:
                if worker.process is not None:
                    try:
                        worker.process.core.check_invariants()
                    except AssertionError as error:
                        self.watcher.violation(f"the invariants of worker {worker.name} do not hold: {error!r}")
        self.loop.run(until)

    def _ask(self, request_id: int) -> None:
        rng = self._rng
        client = rng.randint(1, CLIENTS)
        if client in self._gone:
            return
        model, slo = rng.choice(NAMES), rng.choice(SLOS)
        self._waiting[client, request_id] = (self.loop.now, slo)
        if rng.random() < CANCELLED_SHARE:
            self.loop.at(self.loop.now + rng.randrange(ms(20)), lambda _: self._cancel(client, request_id))
        self.cluster.request(client, InferRequest(request_id, model, self._inputs(model), slo, None, (), True))

    def _inputs(self, model: str) -> tuple[TensorSpec, ...]:
        rows = self._rng.choice((1, 1, 1, 2, 4))
        if not model.startswith("free"):
            return (spec("x", "FP32", (rows, 2)),)
        length = self._rng.choice(LENGTHS)
        return spec("x", "FP32", (rows, length)), spec("z", "INT64", (rows, 2 * length))

    def _cancel(self, client: int, request_id: int) -> None:
        if self._waiting.pop((client, request_id), None) is not None:
            self.cluster.feed(ClientRequest(client, CancelRequest(request_id)))

    def _go_away(self, client: int) -> None:
        self._gone[client] = None
        for asked in [asked for asked in self._waiting if asked[0] == client]:
            del self._waiting[asked]
        self.cluster.feed(ClientLost(client))

    def _answered(self, respond: Respond) -> None:
        response = respond.response
        if not isinstance(response, InferResponse):
            return
        waiting = self._waiting.pop((respond.client_id, response.id), None)
        if waiting is None:
            self.watcher.violation(f"request {response.id} was answered twice, or after it was cancelled")
            return
        arrival, slo = waiting
        if response.status == 0 and self.loop.now > arrival + slo:
            self.watcher.violation(f"request {response.id} succeeded {self.loop.now - arrival - slo} ns after its SLO")

    def _check_rest(self) -> None:
        for _, request_id in list(self._waiting)[:10]:
            self.watcher.violation(f"request {request_id} was never answered")
        truth = {}
        for worker in self.cluster.workers:
            assert worker.process is not None
            info = worker.process.core.info()
            pages = {model.name: model.weights_pages for model in info.models}
            truth[worker.name] = [(sum(map(pages.__getitem__, g.models)), tuple(sorted(g.models))) for g in info.gpus]
        self.watcher.check_rest(truth, self.cluster.ask_status())
