"""One gRPC call, as the methods of the services see it."""

import asyncio
from typing import Final, Protocol

from clockwork.grpc_frontend.heads import Head, Metadata
from clockwork.grpc_frontend.incoming import Incoming
from clockwork.grpc_frontend.methods import Method
from clockwork.host.inbox import Waiting
from clockwork.host.local_client import LocalClient
from clockwork.http2.streams import Stream
from clockwork.oip.failures import Failure
from clockwork.units import Nanos


class Caller(Protocol):
    """The connection of a call's client."""

    @property
    def peer(self) -> str:
        """The client's address in gRPC's notation, such as ``ipv4:127.0.0.1:50000``."""
        ...

    @property
    def client(self) -> LocalClient:
        """The client of the controller whose limits apply to the connection."""
        ...


class Call:
    """A call. It is open from the arrival of its head until its response is complete or its client resets it."""

    __slots__ = (
        "_caller", "arrived", "has_begun", "head", "incoming", "is_counted", "method", "refusal", "stream", "task",
        "timer", "waiting", "wakes",
    )  # fmt: skip

    def __init__(
        self, caller: Caller, stream: Stream, head: Head, method: Method, incoming: Incoming, arrived: Nanos
    ) -> None:
        """Begin a call whose head has arrived."""
        self.stream: Final = stream
        self.head: Final = head
        self.method: Final = method
        self.incoming: Final = incoming
        self.arrived: Final = arrived  #: earliest time at which the call's first byte may have arrived
        self.has_begun = False  #: whether the head of the response was sent
        self.refusal: Failure | None = None  #: the failure of a call that is refused
        self.is_counted = False  #: whether the call counts towards the limit on calls that are served
        self.task: asyncio.Task[None] | None = None  #: serves the call
        self.timer: asyncio.TimerHandle | None = None  #: ends the call at its deadline
        self.waiting: Waiting | None = None  #: the call's entry in the inbox
        self.wakes: list[asyncio.Future[None]] = []  #: tasks that wait until the client sends or receives more
        self._caller = caller

    @property
    def is_open(self) -> bool:
        """Whether a response may still be sent."""
        return self.stream.call is self

    @property
    def timeout(self) -> Nanos | None:
        """Time from the call's arrival to its deadline in nanoseconds, or None if the call has no deadline."""
        return self.head.timeout

    @property
    def metadata(self) -> Metadata:
        """The names and values of the client's metadata."""
        return self.head.metadata

    @property
    def peer(self) -> str:
        """The client's address in gRPC's notation."""
        return self._caller.peer

    @property
    def client(self) -> LocalClient:
        """The client of the controller whose limits apply to the call."""
        return self._caller.client

    def continue_tasks(self) -> None:
        """Wake the tasks that wait for the client."""
        for wake in self.wakes:
            if not wake.done():
                wake.set_result(None)
        self.wakes.clear()

    async def wait(self) -> None:
        """Wait until the client has sent or received something.

        A stream may have two waiting tasks: one reads requests, the other sends responses.
        """
        wake = asyncio.get_running_loop().create_future()
        self.wakes.append(wake)
        await wake
