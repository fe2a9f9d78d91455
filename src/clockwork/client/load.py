"""Runs a load test, which sends the requests of a workload to a live server and counts the outcomes.

The workload decides when each request is due. If a request cannot be sent at that time, it is sent as soon as possible.
The latency of a request always counts from the time at which it was due.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from clockwork.alarm import Alarm
from clockwork.client.aio import AsyncClient
from clockwork.clock import Clock, MonotonicClock
from clockwork.errors import ClockworkError, ConnectionLostError, InvalidRequestError, UnknownModelError
from clockwork.messages.faults import unknown_model
from clockwork.messages.requests import InferResponse, ModelSummary
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype, TensorSpec, spec
from clockwork.units import SECOND, Nanos
from clockwork.workload.outcomes import Outcome, Outcomes, outcome_of, outcome_record
from clockwork.workload.request import WorkloadRequest, comes_back
from clockwork.workload.workload import Workload

MAX_OUTSTANDING: Final = 20_000
"""Largest number of requests that may wait for responses. If more requests wait, the test ends with an error."""

FREE_DIM: Final = 128
"""Size of the free dimensions of the inputs, except the batch dimension."""


Inputs: TypeAlias = tuple[tuple[TensorSpec, ...], list[Any]]
"""The tensor specs of a request, and a buffer with the elements of each tensor."""


class LoadTest:
    """A load test that sends one workload over several connections. `run` may be called once."""

    def __init__(
        self,
        clients: Sequence[AsyncClient],
        workload: Workload,
        outcomes: Outcomes,
        *,
        default_slo: Nanos,
        generated: bool = False,
        clock: Clock | None = None,
        progress: Callable[[Nanos], None] | None = None,
        record: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Create a load test.

        Args:
            clients: connected clients. The clients send the requests in turn.
            workload: decides when each request is due.
            outcomes: counts the outcomes.
            default_slo: SLO of streams that set no SLO.
            generated: requests contain no inputs; the worker generates them.
            clock: measures the latencies. The default is the system's monotonic clock.
            progress: called from time to time with the due time of the request that was sent last.
            record: called with a record of each answered request.
        """
        self._clients = clients
        self._workload = workload
        self.outcomes = outcomes
        self._default_slo = default_slo
        self._generated = generated
        self._clock: Clock = clock or MonotonicClock()
        self._progress = progress
        self._record = record
        self._inputs: dict[tuple[str, int], Inputs] = {}
        self._models: dict[str, ModelSummary] = {}
        self._factors: dict[str, Nanos] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None
        self._start: Nanos = 0
        self._turn = 0
        self.sent_late: Nanos = 0  #: longest time between a request's due time and its sending

    async def run(self) -> None:
        """Send all requests of the workload, and wait for all responses.

        Raises:
            UnknownModelError: the server does not serve a model of the workload.
            ClockworkError: the connection failed.
        """
        self._models = {model.name: model for model in await self._clients[0].ls()}
        status = await self._clients[0].status()
        for model in status.models:
            if model.profiles:
                self._factors[model.info.name] = min(p.infer_estimate(1) for p in model.profiles.values())
        self._start = self._clock.now()
        alarm = Alarm(asyncio.get_running_loop(), self._moved.set)
        try:
            await self._play(alarm)
        finally:
            alarm.close()
        if self._failure is not None:
            raise self._failure

    async def _play(self, alarm: Alarm) -> None:
        while (self._failure is None and (due := self._workload.next_send()) is not None) or self._tasks:
            self._moved.clear()
            wait = None if due is None else due - self._now()
            if wait is None or wait > 0:
                if wait is not None:
                    alarm.set(wait)
                await self._moved.wait()
                continue
            self._send(self._workload.take())
            if len(self._tasks) > MAX_OUTSTANDING:
                raise ClockworkError(f"{MAX_OUTSTANDING} requests wait for responses: the server is too slow")
            if self._turn % 64 == 0:
                await asyncio.sleep(0)

    def _now(self) -> Nanos:
        return self._clock.now() - self._start

    def _send(self, request: WorkloadRequest) -> None:
        self.sent_late = max(self.sent_late, self._now() - request.intended)
        self._turn += 1
        inputs = self._inputs_of(request)
        task = asyncio.ensure_future(self._exchange(self._clients[self._turn % len(self._clients)], request, inputs))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        if self._progress is not None and self._turn % 100 == 0:
            self._progress(request.intended)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._moved.set()
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _exchange(self, client: AsyncClient, request: WorkloadRequest, inputs: Inputs) -> None:
        slo = request.slo if request.slo is not None or request.slo_factor is not None else self._default_slo
        specs, buffers = inputs
        sent = self._now()
        payloads: Sequence[Any] = () if self._generated else buffers
        try:
            response = await client.ask(
                request.model,
                specs,
                payloads,
                slo_ns=slo,
                slo_factor=request.slo_factor,
                generated=self._generated,
            )
        except ConnectionLostError:
            raise  # the rest of the workload cannot be sent without a connection
        except ClockworkError as error:
            self._failed(request, slo or self._default_slo, str(error))
            return
        self._answered(request, slo, response, sent)

    def _answered(self, request: WorkloadRequest, slo: Nanos | None, response: InferResponse, sent: Nanos) -> None:
        now = self._now()
        if request.slo_factor is not None:
            by_factor = round(request.slo_factor * self._factors.get(request.model, 0))
            slo = by_factor if slo is None else min(slo, by_factor)
        outcome = outcome_of(response, intended=request.intended, answered=now, slo=slo or self._default_slo)
        self.outcomes.add(request.stream, outcome)
        if self._record is not None:
            self._record(_record(request, sent, outcome, response))
        self._workload.answered(now, request, comes_back(response.status, response.retry_after))

    def _failed(self, request: WorkloadRequest, slo: Nanos, message: str) -> None:
        now = self._now()
        outcome = Outcome(request.intended, now, slo, Status.ERROR, now - request.intended, message=message)
        self.outcomes.add(request.stream, outcome)
        self._workload.answered(now, request, SECOND)

    def _inputs_of(self, request: WorkloadRequest) -> Inputs:
        key = (request.model, request.batch_size)
        inputs = self._inputs.get(key)
        if inputs is None:
            model = self._models.get(request.model)
            if model is None:
                raise UnknownModelError(unknown_model(request.model, self._models))
            inputs = self._inputs[key] = _inputs(model, request.batch_size, self._generated)
        return inputs


def _record(request: WorkloadRequest, sent: Nanos, outcome: Outcome, response: InferResponse) -> dict[str, Any]:
    """Return the record of a request; ``docs/simulator.md`` describes the fields."""
    return {
        "record": "request",
        "stream": request.stream,
        "client": request.client,
        "model": request.model,
        "intended": request.intended,
        "sent": sent,
        "answered": outcome.answered,
        **outcome_record(outcome, response),
    }


def _inputs(model: ModelSummary, rows: int, generated: bool) -> Inputs:
    """Return random inputs in the model's shapes. If the worker generates the inputs, the list of buffers is empty."""
    specs, buffers = [], []
    rng = np.random.default_rng(0)
    for info in model.inputs:
        if info.optional:
            continue
        free = [rows if place == 0 and model.batchable else FREE_DIM for place in range(len(info.shape))]
        shape = tuple(size if dim < 0 else dim for dim, size in zip(info.shape, free, strict=True))
        if info.datatype == Datatype.BYTES:
            raise InvalidRequestError(f"model {model.name} takes strings; use --generated")
        tensor = spec(info.name, info.datatype, shape)
        specs.append(tensor)
        if generated:
            continue
        if info.datatype == Datatype.FP32:
            buffers.append(memoryview(rng.random(shape, np.float32).tobytes()))
        else:
            buffers.append(memoryview(bytes(tensor.nbytes)))
    return tuple(specs), buffers
