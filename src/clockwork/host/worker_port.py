"""Listens for workers. A worker has one connection for actions, and may open a second connection for model files."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.errors import ProtocolError
from clockwork.host.log_events import event_fields
from clockwork.host.model_source import ModelSource
from clockwork.messages.files import ReadFileList, ReadPart
from clockwork.messages.link import ROLE_FILES, ROLE_WORKER, Hello
from clockwork.net.address import Address
from clockwork.net.arrival import Arrivals
from clockwork.net.config import LinkConfig
from clockwork.net.connection import Connection
from clockwork.net.outbox import Outbox
from clockwork.net.server import Server, listen
from clockwork.units import Bytes, Nanos, ms
from clockwork.wire.codec import decode_result

WORKER_HEARTBEAT: Final[Nanos] = ms(250)
WORKER_SILENT: Final[Nanos] = ms(900)
"""Time between two Pings to a worker. A worker that sends no byte for this time counts as silent.

The controller checks this at each Ping, so it notices within 1.25 s that a worker has stopped.
"""


log = logging.getLogger("clockwork.controller")


@dataclass(frozen=True)
class WorkerPort:
    """The functions that are called for the connections of workers. ``source`` handles their connections for files.

    ``is_connected`` returns whether a worker with this name is connected. A second worker with the name is refused.
    """

    source: ModelSource
    on_connected: Callable[[Connection], None]
    on_message: Callable[[Connection, Any, Any], None]
    on_closed: Callable[[Connection, str], None]
    on_silent: Callable[[Connection, bool], None]
    admits: Callable[[Connection, Hello], str]
    is_connected: Callable[[str], bool]
    _twins: set[str] = field(default_factory=set, init=False)  #: names whose second worker was reported in the log

    async def listen(
        self,
        address: Address,
        clock: Clock,
        arrivals: Arrivals | None,
        outbox: Outbox | None,
        tls: ssl.SSLContext | None,
        *,
        max_frame_bytes: Bytes,
        max_outgoing_bytes: Bytes,
    ) -> Server:
        """Listen on an address.

        Raises:
            ServerError: the address is in use or not permitted.
        """
        return await listen(
            address,
            role=(ROLE_WORKER, ROLE_FILES),
            decode=decode_result,
            config=LinkConfig(
                max_frame_bytes=max_frame_bytes,
                max_outgoing_bytes=max_outgoing_bytes,
                heartbeat_interval=WORKER_HEARTBEAT,
                silent_after=WORKER_SILENT,
                measure_clock=True,
                arrivals=arrivals,
                outbox=outbox,
            ),
            clock=clock,
            on_connected=self._connected,
            on_message=self._message,
            on_closed=self._closed,
            on_silent=self._silent,
            admits=self._admits,
            tls=tls,
        )

    def _admits(self, connection: Connection, hello: Hello) -> str:
        refusal = self.admits(connection, hello)
        return refusal or (self.source.refusal if hello.role == ROLE_FILES else self._refusal_of_twin(hello.name))

    def _refusal_of_twin(self, name: str) -> str:
        """Return why a worker is refused if another worker has its name. The log reports the name only once."""
        if not self.is_connected(name):
            return ""
        if name not in self._twins:
            text = "a second worker with the name %s is refused: give each worker its own --name"
            log.error(text, name, extra=event_fields("worker_refused", worker=name))
            self._twins.add(name)
        return f"a worker with the name {name} is already connected; give each worker its own --name"

    def _connected(self, connection: Connection) -> None:
        if connection.peer_role == ROLE_FILES:
            self.source.connected(connection)
        elif refusal := self._refusal_of_twin(connection.peer_name):  # both greetings came at the same time
            connection.close(refusal)
        else:
            self.on_connected(connection)

    def _message(self, connection: Connection, message: Any, payload: Any) -> None:
        if connection.peer_role == ROLE_FILES:
            self.source.message(connection, message)
        elif isinstance(message, ReadFileList | ReadPart):
            raise ProtocolError(f"{type(message).__name__} is not allowed on a worker's connection for actions")
        else:
            self.on_message(connection, message, payload)

    def _closed(self, connection: Connection, reason: str) -> None:
        if connection.peer_role == ROLE_FILES:
            self.source.closed(connection)
        else:
            self.on_closed(connection, reason)
            if not self.is_connected(connection.peer_name):
                self._twins.discard(connection.peer_name)

    def _silent(self, connection: Connection, silent: bool) -> None:
        if connection.peer_role != ROLE_FILES:
            self.on_silent(connection, silent)
