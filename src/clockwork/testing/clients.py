"""Simulates realistic clients, which send different shapes and SLOs, cancel requests, disconnect and evict weights.

The invariants of the controller and of the workers are checked after every event. At the end, all requests must be
answered, and the controller's view of each device's memory must match the device.
"""

from random import Random
from typing import Final

from clockwork.controller.events import ClientLost, ClientRequest, Respond
from clockwork.messages.requests import CancelRequest, EvictRequest, InferRequest, InferResponse
from clockwork.messages.tensors import TensorInfo, TensorSpec, spec
from clockwork.paced.models import PacedModel, constant_profile
from clockwork.scheduling.base import Scheduler
from clockwork.sim.cluster import Cluster
from clockwork.sim.devices_spec import WorkerSpec
from clockwork.sim.loop import Loop
from clockwork.sim.watcher import Watcher
from clockwork.units import MIB, MILLISECOND, SECOND, Nanos, ms

DURATION: Final[Nanos] = 800 * MILLISECOND
"""Time during which requests are sent."""

SETTLE: Final[Nanos] = 2 * SECOND
"""Time between start-up and the first request. After the last deadline, all work must end within the same time."""

REQUESTS: Final = 250
CLIENTS: Final = 3
EVICTIONS: Final = 6
CANCELLED_SHARE: Final = 0.2
SLOS: Final[tuple[Nanos, ...]] = (ms(0.5), ms(6), ms(25), ms(100), ms(100), ms(1000))
LENGTHS: Final = (8, 8, 16, 32)
"""Lengths of sequences, which are the free dimension of some models."""

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
"""Three models with their numbers of copies: one has a free dimension, one is not batched, and one is ordinary."""

NAMES: Final = ("free-1", "free-2", "free-3", "whole-1", "whole-2", "plain")


class Clients:
    """Clients, and two workers with two devices each. The devices have memory for about half of the models.

    Use this object once.
    """

    def __init__(self, scheduler: Scheduler, seed: int) -> None:
        """Create a cluster. ``seed`` determines all random choices."""
        self.loop = Loop()
        self.watcher = Watcher(every=1)
        self._rng = Random(f"clients {seed}")
        self.cluster = Cluster(
            self.loop,
            Random(seed),
            scheduler,
            list(MODELS),
            fleet=[WorkerSpec(workers=2, per_worker=2, pages=4)],
            watcher=self.watcher,
            on_response=self._responded,
        )
        self._waiting: dict[tuple[int, int], tuple[Nanos, Nanos]] = {}  #: maps (client, request id) to (arrival, SLO)
        self._gone: dict[int, None] = {}

    def run(self) -> "Clients":
        """Run start-up and send all requests. Continue until nothing is running any more, and return this object."""
        self.cluster.start()
        self._run_until(self.loop.now + SETTLE)
        begin = self.loop.now
        for request_id in range(1, REQUESTS + 1):
            self.loop.at(self._moment(begin), self._send, request_id)
        for number in range(EVICTIONS):
            evict = EvictRequest(REQUESTS + 1 + number, self._rng.choice(NAMES))
            self.loop.at(self._moment(begin), self.cluster.feed, ClientRequest(0, evict))
        self.loop.at(self._moment(begin), self._go_away, CLIENTS)
        self._run_until(begin + DURATION + max(SLOS) + SETTLE)
        self._check_rest()
        return self

    def _moment(self, begin: Nanos) -> Nanos:
        return begin + self._rng.randrange(DURATION)

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

    def _send(self, request_id: int) -> None:
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
        for key in [key for key in self._waiting if key[0] == client]:
            del self._waiting[key]
        self.cluster.feed(ClientLost(client))

    def _responded(self, respond: Respond) -> None:
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
            truth[worker.name] = [
                (sum(map(pages.__getitem__, gpu.models)), tuple(sorted(gpu.models))) for gpu in info.gpus
            ]
        self.watcher.check_rest(truth, self.cluster.ask_status())
