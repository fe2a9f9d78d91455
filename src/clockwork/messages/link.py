"""Messages about a connection itself: greeting, heartbeats, comparison of clocks, and goodbye."""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.units import Nanos

PROTOCOL_VERSION: Final = 1
"""Version of all messages. It is increased whenever a message changes in a way that an older peer would misread."""

ROLE_WORKER: Final = "worker"
ROLE_CLIENT: Final = "client"


class Hello(Struct, frozen=True, array_like=True, tag=1000):
    """The first message of the peer that connected. ``name`` identifies a worker across reconnections.

    ``token`` is the bearer token; it is empty if there is none, and `repr` omits it. ``arena`` is the name of the
    memory that a worker shares with its controller; empty if it shares none.
    """

    role: str
    name: str
    software: str
    token: str = ""
    arena: str = ""

    def __repr__(self) -> str:
        return f"Hello(role={self.role!r}, name={self.name!r}, software={self.software!r})"


class Welcome(Struct, frozen=True, array_like=True, tag=1001):
    """The answer to an accepted Hello."""

    software: str
    max_frame_bytes: int


class Goodbye(Struct, frozen=True, array_like=True, tag=1002):
    """The last message before a connection is closed, with the reason."""

    reason: str


class Ping(Struct, frozen=True, array_like=True, tag=1003):
    """A heartbeat. ``sent`` is the time on the sender's clock."""

    sent: Nanos


class Pong(Struct, frozen=True, array_like=True, tag=1004):
    """The answer to a Ping. ``ping_sent`` is the Ping's ``sent``; the other times are on the answering peer's clock."""

    ping_sent: Nanos
    received: Nanos
    sent: Nanos


LinkMessage: TypeAlias = Hello | Welcome | Goodbye | Ping | Pong
