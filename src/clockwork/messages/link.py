"""Messages about the connection itself: greetings, heartbeats (which also compare clocks), and the final message."""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.units import Nanos

PROTOCOL_VERSION: Final = 1
"""Version of the protocol. The version is increased when an older peer would misread a changed message.

A message may get further fields at its end, with defaults, in the same version. A peer ignores fields that it does not
know. The preamble, the lengths of a frame, and the messages Hello and Goodbye are the same in all versions. So peers of
different versions can refuse each other with a reason that both can read.
"""

ROLE_WORKER: Final = "worker"
ROLE_CLIENT: Final = "client"
ROLE_FILES: Final = "files"
"""Role of a worker's second connection, over which the worker receives files (`clockwork.messages.files`)."""


class Hello(Struct, frozen=True, array_like=True, tag=1000):
    """The first message, which the connecting peer sends. ``name`` identifies a worker when it connects again.

    ``token`` is the bearer token, or an empty text. The token does not appear in the struct's `repr`. ``arena`` is the
    name of the memory that a worker shares with its controller. ``arena`` is empty if the worker shares no memory.
    ``accepts`` names further actions that the worker can execute. The controller sends such an action only to workers
    that name it, because an older worker would refuse the whole connection.
    """

    role: str
    name: str
    software: str
    token: str = ""
    arena: str = ""
    accepts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Hello(role={self.role!r}, name={self.name!r}, software={self.software!r})"


class Welcome(Struct, frozen=True, array_like=True, tag=1001):
    """The answer to a Hello. The listening peer accepts the connection with this message."""

    software: str
    max_frame_bytes: int


class Goodbye(Struct, frozen=True, array_like=True, tag=1002):
    """The last message before a peer closes the connection. The message contains the reason.

    ``other_version`` means that the peers use different versions of the protocol.
    """

    reason: str
    other_version: bool = False


class Ping(Struct, frozen=True, array_like=True, tag=1003):
    """A heartbeat message. ``sent`` is the time on the sender's clock."""

    sent: Nanos


class Pong(Struct, frozen=True, array_like=True, tag=1004):
    """The answer to a Ping. ``ping_sent`` is the Ping's ``sent``. The other times are on the answering peer's clock."""

    ping_sent: Nanos
    received: Nanos
    sent: Nanos


LinkMessage: TypeAlias = Hello | Welcome | Goodbye | Ping | Pong
