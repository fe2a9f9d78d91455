"""What the two ends of a connection say to each other as such: who they are, that they live, what time it is."""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.units import Nanos

PROTOCOL_VERSION: Final = 1
"""Raised whenever a message changes so that an older peer would misread it."""

ROLE_WORKER: Final = "worker"
ROLE_CLIENT: Final = "client"


class Hello(Struct, frozen=True, array_like=True, tag=1000):
    """The first message of whoever dialled. ``name`` identifies a worker across reconnections.

    ``token``: what it may be let in for; older software sends none. It is not part of the text that is shown.
    ``arena``: the name of the memory that a worker shares with its controller, if it does.
    """

    role: str
    name: str
    software: str
    token: str = ""
    arena: str = ""

    def __repr__(self) -> str:
        return f"Hello(role={self.role!r}, name={self.name!r}, software={self.software!r})"


class Welcome(Struct, frozen=True, array_like=True, tag=1001):
    """The answer to a Hello that is accepted."""

    software: str
    max_frame_bytes: int


class Goodbye(Struct, frozen=True, array_like=True, tag=1002):
    """The last message before the connection is closed: why."""

    reason: str


class Ping(Struct, frozen=True, array_like=True, tag=1003):
    """Do you live? ``sent`` is the sender's clock."""

    sent: Nanos


class Pong(Struct, frozen=True, array_like=True, tag=1004):
    """I do. ``ping_sent`` repeats the Ping's; ``received`` and ``sent`` are the answerer's clock."""

    ping_sent: Nanos
    received: Nanos
    sent: Nanos


LinkMessage: TypeAlias = Hello | Welcome | Goodbye | Ping | Pong
