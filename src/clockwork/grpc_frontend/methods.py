"""The methods that a gRPC server serves, by path."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from msgspec import Struct

Unary: TypeAlias = Callable[[Any, Any], Awaitable[bytes]]
"""A method with one request and one response. It gets the message's bytes and the call."""

Streaming: TypeAlias = Callable[[AsyncIterator[Any], Any], AsyncIterator[bytes]]
"""A method that gets an iterator over the messages' bytes and the call, and yields responses."""


class Method(Struct, frozen=True):
    """A method: ``unary`` or ``streaming`` implements it.

    If ``infers`` is true, the method is ModelInfer. Its calls wait in the inbox, and may be refused early.
    """

    unary: Unary | None = None
    streaming: Streaming | None = None
    infers: bool = False

    @property
    def kind(self) -> str:
        """The kind of calls among which a call of the method counts: ``infer``, ``stream`` or ``other``."""
        return "infer" if self.infers else "other" if self.streaming is None else "stream"


Methods: TypeAlias = Mapping[str, Method]
"""The methods of a server, by path: ``/SERVICE/METHOD``."""
