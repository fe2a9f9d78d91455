"""Divides the body of a gRPC request into messages.

A message follows a byte that tells whether it is compressed, and its length in four bytes. A long message is collected
in memory that is allocated once. If the message is an inference request with raw tensors, the memory is shared with the
worker, and the first tensor is aligned there, so that it need not be copied again.
"""

from collections import deque
from collections.abc import AsyncIterator
from struct import Struct
from typing import Final, NamedTuple

from clockwork.errors import InvalidRequestError
from clockwork.frontend.body_quota import BodyQuota
from clockwork.grpc_frontend.raw_contents import MIN_SPLIT_BYTES, raw_offset
from clockwork.units import Bytes, Nanos
from clockwork.wire.frame import Allocate, aligned, uninitialised

PREFIX: Final = Struct(">BI")
"""What precedes a message: whether it is compressed, and its length."""

MAX_DESCRIBED: Final[Bytes] = 4096
"""Number of bytes at the beginning of a message that are searched for the first raw tensor."""

MAX_QUEUED: Final = 64
"""Number of messages that are divided before the first of them is taken."""


class TooLongError(InvalidRequestError):
    """A message is longer than the limit."""


class Message(NamedTuple):
    """A message as it arrived."""

    data: bytes | memoryview
    compressed: bool
    arrived: Nanos  #: earliest time at which its first byte may have arrived


async def only(messages: AsyncIterator[Message]) -> Message:
    """Return the message of a call that has exactly one.

    Raises:
        InvalidRequestError: the call has no message or several messages.
    """
    found = [message async for message in messages]
    if len(found) != 1:
        raise one_message()
    return found[0]


def one_message() -> InvalidRequestError:
    """Return the error for a call that must have exactly one message."""
    return InvalidRequestError("the body of the call must be exactly one message")


class Incoming:
    """The messages of one call that have arrived and were not taken."""

    __slots__ = (
        "_allocate", "_arrived", "_compressed", "_filled", "_limit", "_memory", "_quota", "_unparsed",
        "_unparsed_arrived", "completed", "kept", "messages",
    )  # fmt: skip

    def __init__(self, limit: Bytes, quota: BodyQuota, allocate: Allocate | None = None) -> None:
        """Wait for the first message.

        Args:
            limit: limit on a message in bytes.
            quota: counts the bytes until they are taken.
            allocate: returns memory for long inference requests; None: the messages are of another kind.
        """
        self.messages: deque[Message] = deque()
        self.completed = 0  #: number of messages that have arrived completely
        self.kept: Bytes = 0  #: number of bytes that count against the quota
        self._limit = limit
        self._quota = quota
        self._allocate = allocate
        self._unparsed = bytearray()  #: bytes that follow, because enough messages wait or the next one is incomplete
        self._unparsed_arrived: Nanos = 0
        self._memory: memoryview | None = None  #: memory of the incomplete message
        self._filled: Bytes = 0
        self._compressed = False
        self._arrived: Nanos = 0

    @property
    def missing(self) -> Bytes:
        """Number of bytes of the incomplete message that have not arrived, or 0."""
        return 0 if self._memory is None else len(self._memory) - self._filled

    @property
    def waiting(self) -> Bytes:
        """Number of bytes that have arrived, without the incomplete message."""
        return self.kept - self._filled

    @property
    def is_incomplete(self) -> bool:
        """Whether bytes have arrived that are no whole message."""
        return self._memory is not None or bool(self._unparsed)

    @property
    def has_more_than_one(self) -> bool:
        """Whether bytes follow a whole message."""
        return bool(self.messages) and (len(self.messages) > 1 or self.is_incomplete)

    def receive(self, data: bytes | memoryview, arrived: Nanos) -> None:
        """Add bytes that have arrived.

        Raises:
            TooLongError: the length of a message exceeds the limit.
            InvalidRequestError: the bytes are not a message.
            RequestFailedError: the quota is exceeded.
        """
        self.kept += len(data)
        self._quota.add(len(data))
        if self._unparsed:
            self._unparsed += data
            if len(self.messages) < MAX_QUEUED:
                self._parse_again()
            return
        used = self._parse(data, arrived)
        if used < len(data):
            self._unparsed += data[used:]
            self._unparsed_arrived = arrived

    def rest(self) -> memoryview | None:
        """Return the memory for the rest of the incomplete message, or None if it has no memory yet."""
        return None if self._memory is None or self._unparsed else self._memory[self._filled :]

    def received_directly(self, nbytes: Bytes) -> None:
        """Count bytes that have arrived in the memory from `rest`.

        Raises:
            RequestFailedError: the quota is exceeded.
        """
        assert self._memory is not None
        self.kept += nbytes
        self._quota.add(nbytes)
        self._filled += nbytes
        if self._filled == len(self._memory):
            self._complete()

    def take(self) -> Message:
        """Remove and return the first message. There must be a message.

        Raises:
            InvalidRequestError: see `receive`.
        """
        found = self.messages.popleft()
        nbytes = len(found.data) + PREFIX.size
        self.kept -= nbytes
        self._quota.release(nbytes)
        if self._unparsed and len(self.messages) < MAX_QUEUED // 2:
            self._parse_again()
        return found

    def close(self) -> None:
        """Forget everything that has arrived."""
        self._quota.release(self.kept)
        self.kept = self._filled = 0
        self._memory = None
        self.messages.clear()
        self._unparsed.clear()

    def _parse_again(self) -> None:
        with memoryview(self._unparsed) as view:
            used = self._parse(view, self._unparsed_arrived)
        del self._unparsed[:used]

    def _parse(self, data: bytes | memoryview, arrived: Nanos) -> int:
        """Divide bytes into messages. Return how many bytes were used."""
        at, end = 0, len(data)
        while at < end and len(self.messages) < MAX_QUEUED:
            if self._memory is not None:
                at = self._fill(data, at)
                continue
            begin = at + PREFIX.size
            if begin > end:
                break
            flag, length = PREFIX.unpack_from(data, at)
            if flag > 1:
                raise InvalidRequestError(f"the first byte of a message is {flag}; it must be 0 or 1")
            if length > self._limit:
                raise TooLongError(f"message is {length} bytes; the limit is {self._limit}")
            at = begin + length
            if at <= end and length < MIN_SPLIT_BYTES:
                self.completed += 1
                self.messages.append(Message(bytes(data[begin:at]), flag == 1, arrived))
            else:
                self._arrived = arrived
                self._begin(flag == 1, length, data[begin : begin + MAX_DESCRIBED])
                at = begin
        return at

    def _begin(self, compressed: bool, length: Bytes, begin: bytes | memoryview) -> None:
        self._compressed = compressed
        self._filled = 0
        if length >= MIN_SPLIT_BYTES and self._allocate is not None and not compressed:
            self._memory = aligned(self._allocate, length, raw_offset(begin))
        else:
            self._memory = uninitialised(length).data

    def _fill(self, data: bytes | memoryview, at: int) -> int:
        memory = self._memory
        assert memory is not None
        size = min(len(data) - at, len(memory) - self._filled)
        memory[self._filled : self._filled + size] = data[at : at + size]
        self._filled += size
        if self._filled == len(memory):
            self._complete()
        return at + size

    def _complete(self) -> None:
        memory, self._memory = self._memory, None
        self._filled = 0
        assert memory is not None
        data = memory if len(memory) >= MIN_SPLIT_BYTES else bytes(memory)
        self.completed += 1
        self.messages.append(Message(data, self._compressed, self._arrived))
