"""Runs the controller's machine as a server, with two ports, a clock, a log, and profiles on disk.

This module makes no decisions. The module converts messages to events, and commands to messages. The payloads of
tensors are passed between clients and workers without being changed. The module also translates times. The windows of
actions are sent as times of the worker's clock, and the times in results are converted to this host's clock. A clock
offset that is smaller than its own error counts as zero. Offsets between processes on one host are normally that small.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from clockwork.access import Access, Right, Tokens, needed_for, permission_error
from clockwork.clock import Clock, MonotonicClock, with_time
from clockwork.controller.catalog import Catalog
from clockwork.controller.checking import check_infer
from clockwork.controller.config import ControllerConfig
from clockwork.controller.controller import ControllerWithStartupPhase
from clockwork.controller.description import Description
from clockwork.controller.events import (
    ClientLost,
    ClientRequest,
    CompareOutputs,
    CompareShadow,
    ControllerCommand,
    DescribeModel,
    Drain,
    Drained,
    DropWorker,
    Event,
    GiveUp,
    Report,
    RequestsShed,
    Respond,
    SaveModels,
    SaveProfile,
    ServerLoad,
    StageEntered,
    WorkerConnected,
    WorkerLost,
    WorkerResult,
    WorkerSilent,
)
from clockwork.errors import InvalidRequestError, NotPermittedError, ProtocolError, ServerError
from clockwork.host import debug_log
from clockwork.host.arena import make_arena
from clockwork.host.loads_by_name import LoadsByName
from clockwork.host.local_client import LocalClient
from clockwork.host.log_events import event_fields, log_command
from clockwork.host.long_responses import LongResponses
from clockwork.host.machine_runner import MachineRunner
from clockwork.host.memory_trimmer import MemoryTrimmer
from clockwork.host.model_repositories import ModelRepositories, RepositoryConfig
from clockwork.host.model_source import ModelSource, PushConfig
from clockwork.host.native_inbox import NativeInbox
from clockwork.host.native_refusals import NativeRefusals
from clockwork.host.output_comparison import compare_outputs
from clockwork.host.profile_store import ProfileStore
from clockwork.host.reception import Reception
from clockwork.host.response_log import ResponseLog
from clockwork.host.shared_payloads import SharedPayloads
from clockwork.host.state_store import StateConfig, StateStore
from clockwork.host.tracing import make_tracer
from clockwork.host.worker_port import WorkerPort
from clockwork.messages.actions import Infer
from clockwork.messages.commands import SendAction
from clockwork.messages.link import ROLE_CLIENT, Hello
from clockwork.messages.requests import (
    CancelRequest,
    ErrorResponse,
    InferRequest,
    InferResponse,
    ListModelsResponse,
    LoadModelRequest,
    Progress,
    StatusRequest,
)
from clockwork.messages.results import ErrorResult, InferResult
from clockwork.messages.status import Status
from clockwork.net.address import DEFAULT_LISTEN, DEFAULT_WORKER_LISTEN, Address
from clockwork.net.connection import Connection, LinkConfig
from clockwork.net.server import MAX_CONNECTIONS, Server, listen
from clockwork.net.tls import ServerTls
from clockwork.scheduling.base import Scheduler
from clockwork.stepping import Stepper
from clockwork.tracing.config import TracingConfig
from clockwork.units import Bytes, Nanos
from clockwork.wire.clock_offset import shift_action, shift_result
from clockwork.wire.codec import decode_request, output_sizes, split_payload
from clockwork.wire.frame import FRAME_BYTES_CEILING, MAX_FRAME_BYTES, Allocate, uninitialised

BATCH_FRAMES: Final = 16
"""Largest frame of a worker, as a multiple of the largest frame of a client. A batch contains several requests."""

log = logging.getLogger("clockwork.controller")


@dataclass(frozen=True)
class ControllerHostConfig:
    """Configures where a controller listens, which peers it admits, what it stores on disk, and how it starts.

    ``tls`` and ``access`` apply to clients and front ends, ``worker_tls`` and ``worker_tokens`` to workers. Without
    these settings, connections are not encrypted and every peer is admitted. ``payload_bytes`` is the size of the
    memory for payloads that the controller shares with a worker on this host (`ControllerHost.arena`).
    ``max_connections`` limits the port for clients; None means the default. ``repository`` or ``state`` is None if the
    server has no such directory. ``push`` is None if the controller sends no model files to workers.
    ``tracing`` is None if no spans are exported.
    """

    listen: Address = DEFAULT_LISTEN
    worker_listen: Address = DEFAULT_WORKER_LISTEN
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    profile_cache: Path | None = None
    max_frame_bytes: Bytes = MAX_FRAME_BYTES
    tls: ServerTls | None = None
    access: Access = field(default_factory=Access)
    worker_tls: ServerTls | None = None
    worker_tokens: Tokens = field(default_factory=Tokens)
    payload_bytes: Bytes = 0
    max_connections: int | None = None
    repository: RepositoryConfig | None = None
    state: StateConfig | None = None
    push: PushConfig | None = None
    tracing: TracingConfig | None = None


class ControllerHost:
    """A controller that listens for clients and workers. Create and use this object on one running event loop."""

    def __init__(
        self,
        config: ControllerHostConfig,
        scheduler: Scheduler,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Create the controller. Raise `InvalidRequestError` if the configuration contains an impossible model."""
        self._config = config
        self.tls, self.access = config.tls, config.access
        self.stepper: Final = Stepper()  #: executes long work on this event loop in short steps
        self._long_responses = LongResponses(self.description, self.stepper)
        self._memory_trimmer = MemoryTrimmer(lambda: self.description().outstanding == 0)
        self.arena: Final = make_arena(config.payload_bytes)
        self._store, self._state_store = ProfileStore(config.profile_cache), StateStore(config.state)
        self._clock: Clock = clock or MonotonicClock()
        controller = replace(config.controller, pushes_models=config.push is not None)
        self._machine = ControllerWithStartupPhase(scheduler, controller, self._store.load())
        self._runner: MachineRunner[Event, ControllerCommand] = MachineRunner(self._machine, self._clock, self._execute)
        self._source = ModelSource(config.push, self._clock, self._runner.feed)
        self._servers: list[Server] = []
        self._workers: dict[str, Connection] = {}
        self._sharing: set[Connection] = set()  #: connections of workers that have mapped the arena
        self._shared = SharedPayloads(self.arena)
        self._clients: dict[int, Connection | LocalClient] = {}
        self._client_ids: dict[Connection, int] = {}
        self._rights: dict[Connection, Right] = {}  #: the rights of each client's connection
        self._last_client, self._drained = 0, asyncio.Event()
        self._response_log = ResponseLog(log)
        loop = asyncio.get_running_loop()
        self.reception = Reception(
            loop,
            self._clock,
            config.controller,
            on_shed=self._requests_shed,
            on_load=self._load_measured,
            throttle=self._machine.throttle,
            model=self._machine.catalog.find,
        )
        refuse_full = with_time(self._clock, self._machine.refuse_full)
        self._refusals = NativeRefusals(self.reception)
        self._native_inbox = NativeInbox(self.reception, config.controller, refuse_full, self._take_in)
        self.repositories: Final = ModelRepositories(config.repository, self._machine.paths_in_use)
        self._loads_by_name = LoadsByName(self.repositories, self._handle_request, self._respond)
        self.tracer: Final = make_tracer(config.tracing, self._clock, lambda: self.description().state)
        self._failure: asyncio.Future[None] = loop.create_future()

    async def start(self) -> None:
        """Listen on both ports. Raise `ServerError` if a port is in use or not permitted."""
        port = WorkerPort(
            self._source,
            on_connected=self._worker_connected,
            on_message=self._worker_message,
            on_closed=self._worker_closed,
            on_silent=self._worker_silent,
            admits=self._admits_worker,
            is_connected=self._workers.__contains__,
        )
        workers = await port.listen(
            self._config.worker_listen,
            self._clock,
            self.reception.arrivals,
            self.reception.outbox,
            None if self._config.worker_tls is None else self._config.worker_tls.context,
            max_frame_bytes=min(FRAME_BYTES_CEILING, BATCH_FRAMES * self._config.max_frame_bytes),
            # pending requests may hold max_pending_bytes of payloads
            max_outgoing_bytes=2 * self._config.controller.max_pending_bytes,
        )
        self._servers.append(workers)
        clients = await listen(
            self._config.listen,
            role=ROLE_CLIENT,
            decode=decode_request,
            config=LinkConfig(
                max_frame_bytes=self._config.max_frame_bytes,
                allocate=self.allocate,
                arrivals=self.reception.arrivals,
                outbox=self.reception.outbox,
            ),
            clock=self._clock,
            on_connected=self._client_connected,
            on_message=self._client_message,
            on_closed=self._client_closed,
            admits=self._admits_client,
            refuses=self._refusals.refuse,
            max_connections=self._config.max_connections or MAX_CONNECTIONS,
            tls=None if self._config.tls is None else self._config.tls.context,
        )
        self._servers.append(clients)
        self._memory_trimmer.start()
        self.worker_address, self.client_address = workers.address, clients.address
        log.info(
            "listening for clients on %s, for workers on %s",
            self.client_address,
            self.worker_address,
            extra=event_fields("listening", address=str(self.client_address), worker_address=str(self.worker_address)),
        )

    @property
    def allocate(self) -> Allocate:
        """Function that allocates memory into which payloads are received."""
        return uninitialised if self.arena is None else self.arena.allocate

    async def wait(self) -> None:
        """Wait until the controller fails, and raise `ServerError` with the reason."""
        await asyncio.shield(self._failure)

    def local_client(self, *, shared: bool = True) -> LocalClient:
        """Return a client in this process. Without ``shared``, the limits of one connection apply to the client."""
        self._last_client += 1
        client_id = self._last_client
        send = partial(self._handle_request, client_id, shared=shared)
        check = partial(with_time(self._clock, self._machine.refuse_early), client_id)
        client = LocalClient(send, partial(self._client_left, client_id), check)
        self._clients[client_id] = client
        return client

    def progress(self) -> tuple[str, Progress]:
        """Return the stage and its progress."""
        return self._machine.stage.value, self._machine.progress(self._clock.now())

    @property
    def catalog(self) -> Catalog:
        """The versions of all models while the server serves. The caller must not change the catalog."""
        return self._machine.catalog

    def is_ready(self, model: str | None = None, version: str = "") -> bool:
        """Return whether requests are served now, for any model or for the named model and version."""
        return self._machine.is_ready(model, version)

    async def drain(self, limit: Nanos) -> None:
        """Refuse new requests from now on. Return when all pending requests are answered, or after ``limit``.

        The ports stay open until `close` is called. So new clients get a refusal, and health checks report that the
        server is not ready.
        """
        self._runner.feed(Drain(limit))
        await self._drained.wait()

    def description(self) -> Description:
        """Return the state of the server. Call this method on the server's event loop."""
        return self._machine.description(self._clock.now())

    async def close(self) -> None:
        """Stop listening and close all connections."""
        self._runner.close()
        await self._state_store.close()
        self._response_log.close()
        self.reception.close()
        self._long_responses.close()
        self._memory_trimmer.close()
        self._loads_by_name.close()
        self.repositories.close()
        self._source.close()
        if self._failure.done() and not self._failure.cancelled():
            self._failure.exception()  # marks the exception as retrieved; otherwise asyncio may warn
        for server in self._servers:
            await server.close("the controller is shutting down")
        for client in list(self._clients.values()):
            if isinstance(client, LocalClient):
                client.close()
        if self.arena is not None:
            self.arena.close()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.export.close)
        if not self._failure.done():
            self._failure.cancel()

    # --- incoming -----------------------------------------------------------------------------------------------

    def _admits_worker(self, connection: Connection, hello: Hello) -> str:
        tokens = self._config.worker_tokens
        if not tokens or tokens.knows(hello.token):
            if self.arena is not None and hello.arena == self.arena.name:
                self._sharing.add(connection)
            return ""
        return "worker has no valid token; start it with --token-file"

    def _admits_client(self, connection: Connection, hello: Hello) -> str:
        try:
            self._rights[connection] = self.access.right_of(hello.token)
        except NotPermittedError as error:
            return str(error)
        return ""

    def _worker_connected(self, connection: Connection) -> None:
        worker_id = connection.peer_name
        self._workers[worker_id] = connection
        self._runner.feed(WorkerConnected(worker_id, connection.peer_software, connection.peer_accepts))

    def _worker_message(self, connection: Connection, message: Any, payload: Any) -> None:
        worker_id = connection.peer_name
        if self._workers.get(worker_id) is not connection:
            return
        payloads: tuple[object, ...] = ()
        if isinstance(message, InferResult):
            try:
                payloads = tuple(split_payload(payload, output_sizes(message)))
            except ProtocolError as error:
                connection.close(str(error))
                return
        self._shared.ended(worker_id, message.id)
        result = shift_result(message, -self._offset(connection))
        debug_log.result_arrived(worker_id, result)
        self._runner.feed(WorkerResult(worker_id, result, payloads))

    def _worker_closed(self, connection: Connection, reason: str) -> None:
        worker_id = connection.peer_name
        self._sharing.discard(connection)
        if self._workers.get(worker_id) is connection:
            del self._workers[worker_id]
            self._shared.left(worker_id)
            self._runner.feed(WorkerLost(worker_id, reason))

    def _worker_silent(self, connection: Connection, silent: bool) -> None:
        if self._workers.get(connection.peer_name) is connection:
            self._runner.feed(WorkerSilent(connection.peer_name, silent))

    def _client_connected(self, connection: Connection) -> None:
        self._last_client += 1
        self._clients[self._last_client] = connection
        self._client_ids[connection] = self._last_client

    def _client_message(self, connection: Connection, message: Any, payload: Any) -> None:
        client_id = self._client_ids.get(connection)
        if client_id is None:
            return
        right = self._rights[connection]
        if right is not Right.ADMIN and right < (needed := needed_for(message)):
            denied = permission_error(right, needed)
            connection.send(ErrorResponse(message.id, denied.status or Status.NOT_PERMITTED, str(denied)))
            return
        if isinstance(message, InferRequest):
            self.reception.request_ids.named(message)
            arrival = connection.arrived_at
            refused = self._native_inbox.put(client_id, message, payload, arrival, self.reception.stated_slo(message))
            if refused is not None:
                self._respond(refused)
        elif isinstance(message, StatusRequest):
            self._long_responses.status(connection, message.id)
        elif isinstance(message, LoadModelRequest) and self._loads_by_name.take(client_id, message):
            pass  # the load is handled when its versions are known
        elif not (isinstance(message, CancelRequest) and self._native_inbox.withdraw(client_id, message.id)):
            self._handle_request(client_id, message, payload)

    def _take_in(self, client_id: int, request: InferRequest, payload: Any, arrival: Nanos) -> None:
        self._handle_request(client_id, request, payload, arrival)
        # without this check, clients could fill the table with names
        if self._machine.catalog.find(request.model, request.version) is not None:
            self.reception.note_slo(request.model, request.slo, version=request.version)

    def _load_measured(self, busy: float) -> None:
        self._runner.feed(ServerLoad(busy))

    def _requests_shed(self, shed: RequestsShed) -> None:
        self._response_log.refused(sum(shed.by_model.values()))
        self._runner.feed(shed)

    def _handle_request(
        self, client_id: int, message: Any, payload: Any = b"", arrival: Nanos | None = None, shared: bool = False
    ) -> None:
        if isinstance(message, InferRequest):
            debug_log.request_arrived(message, client_id)
            self.reception.measure()
            try:
                check_infer(message, len(payload), self._config.max_frame_bytes)
            except InvalidRequestError as error:
                self._runner.feed(ClientRequest(client_id, message, None, str(error), arrival, shared))
                return
        self._runner.feed(ClientRequest(client_id, message, payload, "", arrival, shared))

    def _client_closed(self, connection: Connection, reason: str) -> None:
        self._rights.pop(connection, None)
        client_id = self._client_ids.pop(connection, None)
        if client_id is not None:
            self._client_left(client_id)

    def _client_left(self, client_id: int) -> None:
        self._native_inbox.withdraw(client_id)
        if self._clients.pop(client_id, None) is not None:
            self._runner.feed(ClientLost(client_id))

    # --- outgoing -----------------------------------------------------------------------------------------------

    def _execute(self, command: ControllerCommand) -> None:
        match command:
            case Respond():
                if not self._state_store.hold(command, self._respond):
                    self._respond(command)
            case SendAction():
                if (connection := self._workers.get(command.worker_id)) is not None:
                    self._send_action(connection, command)
            case CompareOutputs() | CompareShadow():
                compare_outputs(command, self._runner.feed)
            case DescribeModel():
                self._source.describe(command)
            case SaveProfile():
                self._store.save(command.key, command.profile)
            case SaveModels():
                self._state_store.save(command.desired)
            case Report() | StageEntered():
                log_command(log, command)
            case DropWorker():
                log_command(log, command)
                if (connection := self._workers.get(command.worker_id)) is not None:
                    connection.close(command.reason)
            case Drained():
                self._drained.set()
            case GiveUp():
                if not self._failure.done():
                    self._failure.set_exception(ServerError(command.reason))

    def _send_action(self, connection: Connection, command: SendAction) -> None:
        action = command.action
        debug_log.action_sent(self._clock, command.worker_id, action)
        payloads: Sequence[Any] = command.payloads
        if payloads and connection in self._sharing and isinstance(action, Infer):
            action, payloads = self._shared.share(command.worker_id, action, payloads)
        payloads = [payload for payload in payloads if payload is not None]
        try:
            connection.send(shift_action(action, self._offset(connection)), payloads)
        except InvalidRequestError as error:  # the message is too long for a frame
            self._shared.ended(command.worker_id, action.id)
            text = f"the batch cannot be sent: {error}"
            failed = WorkerResult(command.worker_id, ErrorResult(action.id, type(action).__name__, Status.ERROR, text))
            asyncio.get_running_loop().call_soon(self._runner.feed, failed)

    def _offset(self, connection: Connection) -> Nanos:
        """Return the worker's clock minus this host's clock."""
        now = self._clock.now()
        offset = connection.clock_offset.offset_ns
        return offset if abs(offset) > connection.clock_offset.error_ns(now) else 0

    def _respond(self, command: Respond) -> None:
        connection = self._clients.get(command.client_id)
        if connection is None:
            return
        response = command.response
        if isinstance(response, InferResponse):
            if self.tracer is not None and isinstance(connection, LocalClient):
                self.tracer.answered(connection.traces.get(response.id), command)
            self._response_log.answered(response)
            debug_log.request_answered(response)
        payload: tuple[Any, ...] = (command.payload,) if command.payload is not None else ()
        if isinstance(response, ListModelsResponse) and isinstance(connection, Connection):
            self._long_responses.models(connection, response)
            return
        try:
            connection.send(response, payload)
        except InvalidRequestError as error:  # the message is too long for a frame
            assert not isinstance(response, ErrorResponse)
            connection.send(ErrorResponse(response.id, Status.ERROR, f"the response cannot be sent: {error}"))
