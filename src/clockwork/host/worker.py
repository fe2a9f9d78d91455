"""Runs a worker: its core, a runtime, a thread per lane, and a connection to the controller.

This module makes no decisions. The module creates the worker's parts and keeps the worker connected to the controller.
The module converts messages to events, and results to messages. All times are times of this host's clock. The
controller translates these times.

When the connection ends, the core drops waiting actions, and running tasks end without a result. Results that have not
been sent are dropped as well. Models and weights stay loaded.
"""

import asyncio
import logging
import os
import random
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from msgspec import Struct

from clockwork.clock import Clock, MonotonicClock
from clockwork.errors import DeviceLostError, InvalidRequestError, ProtocolError, ServerError
from clockwork.host.affinity import CorePlan, allowed_cores, claimed_cores, confined, plan_cores
from clockwork.host.arena import ArenaView
from clockwork.host.cache_size import available_bytes, default_cache_bytes
from clockwork.host.controller_file import FindController
from clockwork.host.devices import MakeDevices
from clockwork.host.lanes import Lanes
from clockwork.host.log_events import event_fields
from clockwork.host.model_fetcher import ModelFetcher
from clockwork.host.paced_devices import PacedDevices
from clockwork.host.process_tuning import steady_timing
from clockwork.host.received_models import ReceivedModels
from clockwork.host.task_runner import ResultToSend, TaskRunner
from clockwork.messages.actions import Action, FetchModel, Infer, InferInput
from clockwork.messages.findings import Finding
from clockwork.messages.link import ROLE_WORKER, Hello
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.net.address import DEFAULT_WORKER_LISTEN, Address
from clockwork.net.connection import Connection, LinkConfig
from clockwork.net.dial import dial, keep_dialled
from clockwork.paced.durations import DurationModel, NoiseModel
from clockwork.paced.models import PacedModel
from clockwork.runtimes.base import Runtime
from clockwork.units import MIB, SECOND, Bytes, Nanos, Pages, show_bytes
from clockwork.version import __version__
from clockwork.wire.codec import decode_action, input_sizes, split_payload
from clockwork.wire.frame import MAX_FRAME_BYTES
from clockwork.worker.core import WorkerCore

TIMER_RESOLUTION: Final = 0.001
"""Seconds added to each timer. uvloop counts in milliseconds, and a timer that fires early must be set again."""

LEAVE_POLL: Final = 0.005
"""Seconds between two checks for running tasks while the worker leaves."""

MAX_DEVICES: Final = 64
"""Limit of the number of devices of one worker. No host has that many accelerators. Each device needs two threads."""

MAX_THREADS_PER_CORE: Final = 4
"""Limit of the threads of one device, per core of the process.

A larger number is probably a mistake. With 1,024 threads on two cores, the measurement of a perceptron took two
minutes.
"""

PAGE_SIZE: Final[Bytes] = 16 * MIB
"""Default page size of a weights cache, which is the page size in the paper (section 5.1)."""

EMULATED: Final = "emulated"
"""Device kind of emulated devices. The times of these devices depend only on the profile and the factor."""

log = logging.getLogger("clockwork.worker")


def default_name() -> str:
    """Return a name that no other worker has. The name consists of the host name and the process id."""
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True)
class WorkerConfig:
    """A worker: its controller, the directory of its models, and its devices.

    ``controller`` is the address of the controller, or a function that returns the address before each connection.
    ``name`` identifies the worker across reconnections; no two workers of a controller may have the same name.
    ``cache_bytes`` is the size of each device's weights cache. If ``cache_bytes`` is None, the size is computed from
    the available memory. ``tls`` encrypts the connection. ``token`` is for a controller that requires a token.
    ``arena`` is memory shared with the controller. ``taken_cores`` contains the cores of other workers on this host. If
    ``taken_cores`` is None, the worker itself finds these cores and claims its own cores. If it is set, the parent
    process has already claimed the worker's cores. ``received`` is the directory for files that the controller sends,
    and its largest size. If ``received`` is None, the worker reads only its model root. ``findings`` describe what
    disturbs the worker's machine; the worker reports them to the controller.
    """

    model_root: Path
    controller: Address | FindController = DEFAULT_WORKER_LISTEN
    name: str = field(default_factory=default_name)
    devices: int = 1
    threads_per_device: int = 1
    cache_bytes: Bytes | None = None
    page_size: Bytes = PAGE_SIZE
    max_frame_bytes: Bytes = MAX_FRAME_BYTES
    tls: ssl.SSLContext | None = None
    token: str = field(default="", repr=False)
    arena: ArenaView | None = None
    taken_cores: tuple[int, ...] | None = None
    received: tuple[Path, Bytes] | None = None
    findings: tuple[Finding, ...] = ()

    def pages(self) -> Pages:
        """Return the number of pages of each device's weights cache.

        Raises:
            InvalidRequestError: the cache is too small for one page, or another setting is out of range.
        """
        if not 1 <= self.devices <= MAX_DEVICES or self.threads_per_device < 1 or self.page_size < 1:
            raise InvalidRequestError(
                f"{self.devices} devices of {self.threads_per_device} threads with pages of {self.page_size} bytes are "
                f"not possible; a worker has 1 to {MAX_DEVICES} devices, and at least 1 thread and 1 byte"
            )
        limit = MAX_THREADS_PER_CORE * len(allowed_cores())
        if self.threads_per_device > limit:
            raise InvalidRequestError(
                f"{self.threads_per_device} threads per device are too many for {len(allowed_cores())} core(s); "
                f"the limit is {limit}"
            )
        size = self.cache_bytes
        if size is None:
            size = default_cache_bytes(available_bytes(), self.devices)
        if size < self.page_size:
            raise InvalidRequestError(
                f"a weights cache of {show_bytes(size)} has no room for a page of {show_bytes(self.page_size)}; "
                "use a larger cache or smaller pages"
            )
        return size // self.page_size


class WorkerHost:
    """A running worker. Create and use this object on one running event loop."""

    def __init__(
        self,
        controller: Address | FindController,
        name: str,
        make_devices: MakeDevices,
        *,
        clock: Clock | None = None,
        max_frame_bytes: Bytes = MAX_FRAME_BYTES,
        tls: ssl.SSLContext | None = None,
        token: str = "",
        arena: ArenaView | None = None,
        received: ReceivedModels | None = None,
    ) -> None:
        """For ``controller``, ``name``, ``max_frame_bytes``, ``tls``, ``token`` and ``arena``, see `WorkerConfig`.

        ``received`` stores the files that the controller sends.
        """
        self._find_controller: FindController = (lambda: controller) if isinstance(controller, Address) else controller
        self._controller: Address | None = None  #: the address of the last attempt to connect
        self._name = name
        self._link = LinkConfig(max_frame_bytes=max_frame_bytes)
        self._tls, self._token, self._arena = tls, token, arena
        self._clock: Clock = clock or MonotonicClock()
        self._loop = asyncio.get_running_loop()
        self._fetcher = None if received is None else ModelFetcher(name, received, tls=tls, token=token)
        self._devices = make_devices(self._results_wait, self._devices_failed)
        self.core = self._devices.core
        self._dialling: asyncio.Task[None] | None = None
        self._crash: Exception | None = None
        self._connection: Connection | None = None
        self._failure = ""  #: why the last attempt to connect failed
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: Nanos = 0

    async def run(self) -> None:
        """Connect to the controller until this call is cancelled. Connect again after each lost connection.

        Raises:
            DeviceLostError: a device no longer works.
            ServerError: a thread of a device failed because of a bug.
        """
        self._devices.start()
        self._dialling = asyncio.ensure_future(
            keep_dialled(
                self._dial,
                on_connected=self._connected,
                on_failure=self._not_connected,
                rng=random.Random(self._name),
            )
        )
        try:
            await self._dialling
        except asyncio.CancelledError:
            if isinstance(self._crash, DeviceLostError):
                raise self._crash from None
            if self._crash is not None:
                raise ServerError(f"the worker failed: {self._crash!r}") from self._crash
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._fetcher is not None:
                await asyncio.shield(asyncio.ensure_future(self._fetcher.close()))
            await asyncio.shield(asyncio.ensure_future(self._devices.end()))

    def is_ready(self) -> bool:
        """Return whether the worker is connected to its controller, and loads and receives no models."""
        receives = self._fetcher is not None and self._fetcher.busy
        return self._connection is not None and not self.core.loads_models and not receives

    async def leave(self) -> None:
        """Finish running tasks, refuse waiting and new actions, and send the results.

        The caller cancels `run` afterwards.

        If no controller is connected, return at once.
        """
        self._devices.leave()
        while self._connection is not None and self._devices.owes_results():  # noqa: ASYNC110 - not every task signals its end
            await asyncio.sleep(LEAVE_POLL)
        self._send_results()

    def _devices_failed(self, error: Exception) -> None:
        def stop() -> None:
            self._crash = error
            if self._dialling is not None:
                self._dialling.cancel()

        self._loop.call_soon_threadsafe(stop)

    # --- the link ----------------------------------------------------------------------------------------------------

    async def _dial(self) -> Connection:
        arena = "" if self._arena is None else self._arena.name
        self._controller = address = self._find_controller()
        return await dial(
            address,
            Hello(ROLE_WORKER, self._name, f"clockwork {__version__}", self._token, arena, self._accepts()),
            decode=decode_action,
            on_message=self._received,
            on_closed=self._closed,
            config=self._link,
            clock=self._clock,
            tls=self._tls,
        )

    def _accepts(self) -> tuple[str, ...]:
        return () if self._fetcher is None else (FetchModel.__name__,)

    def _connected(self, connection: Connection) -> None:
        self._connection = connection
        self._failure = ""
        extra = event_fields("connected", worker=self._name, address=str(self._controller))
        log.info("worker %s is connected to the controller at %s", self._name, self._controller, extra=extra)

    def _not_connected(self, reason: str) -> None:
        if reason != self._failure:  # a failure that repeats for hours is logged only once
            extra = event_fields("not_connected", worker=self._name, address=str(self._controller or ""), reason=reason)
            log.warning("%s; retrying until it succeeds", reason, extra=extra)
        self._failure = reason

    def _closed(self, connection: Connection, reason: str) -> None:
        extra = event_fields("disconnected", worker=self._name, address=str(self._controller), reason=reason)
        log.warning("the connection to the controller ended: %s", reason, extra=extra)
        self._connection = None
        if self._fetcher is not None:
            self._fetcher.cancel()
        self._devices.controller_lost()

    def _received(self, connection: Connection, action: Action, payload: Any) -> None:
        payloads: tuple[object, ...] = ()
        if isinstance(action, Infer):
            try:
                parts = split_payload(payload, input_sizes(action))
                payloads = tuple(map(self._payload, action.inputs, parts))
            except ProtocolError as error:
                connection.close(str(error))
                return
        if isinstance(action, FetchModel) and self._fetcher is not None:
            assert self._controller is not None
            self._fetcher.start(self._controller, action, connection.send)
            return
        self._arm(self._devices.act(action, payloads))

    def _payload(self, request: InferInput, sent: memoryview) -> memoryview | None:
        """Return a request's payload: the sent bytes, or the bytes in shared memory. Return None for generated inputs.

        Raises:
            ProtocolError: the payload is outside the shared memory.
        """
        if request.generated:
            return None
        if request.arena_offset < 0:
            return sent
        if self._arena is None:
            raise ProtocolError("action refers to shared memory, but this worker shares none")
        return self._arena.view(request.arena_offset, request.payload_bytes)

    # --- results -----------------------------------------------------------------------------------------------------

    def _results_wait(self) -> None:
        self._loop.call_soon_threadsafe(self._send_results)

    def _send_results(self) -> None:
        for sent in self._devices.take_results():
            if self._connection is not None:
                _send(self._connection, sent)

    def _arm(self, expiry: Nanos | None) -> None:
        """Set the timer that fails actions whose window passes while they wait behind a running task."""
        if expiry is None or (self._timer is not None and self._armed_for <= expiry):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = expiry
        delay = max(0, expiry - self._clock.now()) / SECOND + TIMER_RESOLUTION
        self._timer = self._loop.call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._arm(self._devices.expire())


OnHost: TypeAlias = Callable[[WorkerHost], None]
"""Function that is called with the worker before the worker runs, so that the caller can end the worker later."""


async def run_worker(config: WorkerConfig, runtime: Runtime, on_host: OnHost = lambda host: None) -> None:
    """Run a worker in this process until cancelled. At the end, stop the worker's threads and free its resources.

    While the worker runs, the calling thread does not use the devices' cores, and the process is configured for steady
    times.

    Raises:
        InvalidRequestError: a setting is out of range, or the model root does not exist.
    """
    received = None if config.received is None else ReceivedModels(*config.received)
    with _planned_cores(config) as cores, confined(cores.others), steady_timing(yields=cores.is_shared):
        host = WorkerHost(
            config.controller,
            config.name,
            threads(config, runtime, MonotonicClock(), cores, received),
            max_frame_bytes=config.max_frame_bytes,
            tls=config.tls,
            token=config.token,
            arena=config.arena,
            received=received,
        )
        level = logging.WARNING if cores.is_crowded else logging.INFO
        log.log(level, "worker %s: %s; %s", config.name, runtime.version, cores.note)
        _log_devices(host)
        on_host(host)
        await host.run()


def _planned_cores(config: WorkerConfig) -> AbstractContextManager[CorePlan]:
    if config.taken_cores is None:
        return claimed_cores(allowed_cores(), config.devices, config.threads_per_device)
    return nullcontext(plan_cores(allowed_cores(), config.devices, config.threads_per_device, config.taken_cores))


class EmulatedDevices(Struct, frozen=True):
    """The emulated devices of a worker. ``pages`` is the size of the weights cache of each device.

    Tasks take ``factor`` times as long as in the profile.
    """

    count: int
    pages: Pages
    factor: float = 1.0

    @property
    def kind(self) -> str:
        """The device kind. Devices with different factors have different kinds, because their times differ."""
        return EMULATED if self.factor == 1.0 else f"{EMULATED} x{self.factor:g}"


async def run_emulated(
    controller: Address | FindController,
    name: str,
    models: Iterable[PacedModel],
    devices: EmulatedDevices,
    clock: Clock = MonotonicClock(),  # noqa: B008 - a clock has no state
    *,
    on_host: OnHost = lambda host: None,
    tls: ssl.SSLContext | None = None,
    token: str = "",
    arena: ArenaView | None = None,
) -> None:
    """Run a worker with emulated devices in this process until cancelled.

    A task takes the time that its profile states, multiplied by the factor of the devices.
    """
    noise = NoiseModel("measured")  # durations from a profile with only one sample do not vary
    rngs = [random.Random(f"{name}/{gpu}") for gpu in range(devices.count)]
    durations = [DurationModel(noise, rng, devices.factor) for rng in rngs]

    def make(on_answers: Callable[[], None], on_crash: Callable[[Exception], None]) -> PacedDevices:
        core = WorkerCore(PAGE_SIZE, [(devices.kind, devices.pages)] * devices.count)
        return PacedDevices(core, {model.path: model for model in models}, durations, clock, on_answers)

    with steady_timing():
        host = WorkerHost(controller, name, make, clock=clock, tls=tls, token=token, arena=arena)
        log.info("worker %s: %d %s devices", name, devices.count, devices.kind)
        on_host(host)
        await host.run()


def threads(
    config: WorkerConfig,
    runtime: Runtime,
    clock: Clock,
    cores: CorePlan | None = None,
    received: ReceivedModels | None = None,
) -> MakeDevices:
    """Return a function that creates real devices, with a runtime and a thread per lane.

    ``cores`` assigns threads to cores. ``received`` contains the files that the controller has sent.

    Raises:
        InvalidRequestError: a setting is out of range, or the model root does not exist.
    """
    if not config.model_root.is_dir():
        raise InvalidRequestError(f"model root {config.model_root} is not a directory")
    devices = [(runtime.device_kind, config.pages())] * config.devices
    core = WorkerCore(config.page_size, devices, config.findings)
    runner = TaskRunner(runtime, config.model_root, clock, received)
    return lambda on_answers, on_crash: Lanes(core, runner, clock, on_answers, on_crash, cores)


def _log_devices(host: WorkerHost) -> None:
    info = host.core.info()
    for gpu in info.gpus:
        log.info("gpu %d: %s, %d pages of %s", gpu.id, gpu.kind, gpu.total_pages, show_bytes(info.page_size))


def _send(connection: Connection, finished: ResultToSend) -> None:
    result = finished.result
    try:
        connection.send(result, finished.buffers)
    except InvalidRequestError as error:  # the result is too long for a frame
        action = type(result).__name__.removesuffix("Result")
        connection.send(ErrorResult(result.id, action, Status.ERROR, f"the result cannot be sent: {error}"))
