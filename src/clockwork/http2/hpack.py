"""Header compression of HTTP/2 (RFC 7541).

The decoder takes time in proportion to the length of a block, even for blocks that no client library sends. The
encoder's blocks use no dynamic table, so a block is the same bytes on each connection, and can be prepared.

Most blocks of a client consist of the same few bytes, which refer to entries of the dynamic table. `Decoder.decode`
remembers the result for each block that did not change the table, until the table changes.
"""

from collections import deque
from typing import Any, Final, NamedTuple

from clockwork.http2.frames import COMPRESSION_ERROR, Http2Error
from clockwork.http2.huffman import decode_huffman
from clockwork.units import Bytes

TABLE_SIZE: Final[Bytes] = 4096
"""Largest size of the decoder's dynamic table. This is the default of SETTINGS_HEADER_TABLE_SIZE."""

ENTRY_SIZE: Final[Bytes] = 32
"""Number of bytes that HPACK adds to the length of an entry (RFC 7541, section 4.1)."""

MAX_REMEMBERED: Final = 64
"""Largest number of blocks that a decoder remembers."""

MAX_REMEMBERED_BLOCK: Final[Bytes] = 512
"""Longest block in bytes that a decoder remembers."""

MAX_REMEMBERED_SIZE: Final[Bytes] = 2048
"""Largest size in bytes of the headers in a block that a decoder remembers."""

Field = tuple[bytes, bytes]
"""The name and the value of a header."""

STATIC: Final[tuple[Field, ...]] = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""),
    (b"cache-control", b""), (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""),
    (b"content-length", b""), (b"content-location", b""), (b"content-range", b""), (b"content-type", b""),
    (b"cookie", b""), (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""),
    (b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""),
    (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""),
    (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""),
    (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""), (b"strict-transport-security", b""),
    (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
"""The static table (RFC 7541, appendix A). Its first entry has the index 1."""

EMPTY_TABLE: Final = b"\x20"
"""The beginning of a block of headers whose encoder has reduced the table to zero bytes."""

MAX_RESIZES: Final = 2
"""Largest number of changes of the table's size in one block (RFC 7541, section 4.2)."""

_INDEXED, _INCREMENTAL, _RESIZE = 0x80, 0x40, 0x20
_MAX_INTEGER: Final = 1 << 24
_INDEX_OF: Final = {name: len(STATIC) - at for at, (name, _) in enumerate(reversed(STATIC))}


class Block(NamedTuple):
    """The headers in one block. If they are larger than the limit, ``fields`` is None."""

    fields: tuple[Field, ...] | None
    size: Bytes  #: sum of the lengths of all names and values, plus `ENTRY_SIZE` for each field


class Decoder:
    """Decodes the blocks of one connection, in the order in which they arrive.

    After an `Http2Error`, the decoder must not be used any more.
    """

    def __init__(self, max_size: Bytes) -> None:
        """Start with an empty table. ``max_size`` is the limit on the size of a block's headers."""
        self.remembered: dict[bytes, Any] = {}  #: what the caller has made of blocks that do not change the table
        self.changed = False  #: whether the last block has changed the table
        self._last_size: Bytes = 0  #: size of the headers in the last block
        self._max_size = max_size
        self._table: deque[Field] = deque()  #: the newest entry is first
        self._size: Bytes = 0
        self._max_table: Bytes = TABLE_SIZE

    def remember(self, block: bytes, made: object) -> None:
        """Remember what the caller has made of the last block, unless it is large or has changed the table."""
        if not self.changed and len(block) <= MAX_REMEMBERED_BLOCK and self._last_size <= MAX_REMEMBERED_SIZE:
            if len(self.remembered) >= MAX_REMEMBERED:
                del self.remembered[next(iter(self.remembered))]
            self.remembered[block] = made

    def decode(self, block: bytes) -> Block:
        """Decode a whole block.

        Raises:
            Http2Error: the block is invalid.
        """
        self.changed = False
        fields: list[Field] = []
        at, end, size, limit, resizes = 0, len(block), 0, self._max_size, 0
        try:
            while at < end:
                first = block[at]
                if first & _INDEXED:
                    index, at = _integer(block, at, 0x7F)
                    field = self._entry(index)
                elif first & _INCREMENTAL:
                    field, at = self._literal(block, at, 0x3F)
                    self._add(field)
                elif first & _RESIZE:
                    resizes += 1
                    if size or resizes > MAX_RESIZES:
                        text = "a block of headers changes the table after a header, or too often"
                        raise Http2Error(COMPRESSION_ERROR, text)
                    at = self._resize(block, at)
                    continue
                else:
                    field, at = self._literal(block, at, 0x0F)
                size += len(field[0]) + len(field[1]) + ENTRY_SIZE
                if size <= limit:
                    fields.append(field)
        except IndexError:
            raise Http2Error(COMPRESSION_ERROR, "a block of headers is incomplete") from None
        self._last_size = size
        if self.changed:
            self.remembered.clear()
        return Block(tuple(fields) if size <= limit else None, size)

    def _entry(self, index: int) -> Field:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        if not 0 < index - len(STATIC) <= len(self._table):
            raise Http2Error(COMPRESSION_ERROR, f"the table of headers has no entry {index}")
        return self._table[index - len(STATIC) - 1]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = _integer(block, at, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _text(block, at)
        value, at = _text(block, at)
        return (name, value), at

    def _add(self, field: Field) -> None:
        self.changed = True
        self._table.appendleft(field)
        self._size += len(field[0]) + len(field[1]) + ENTRY_SIZE
        self._evict()

    def _resize(self, block: bytes, at: int) -> int:
        size, at = _integer(block, at, 0x1F)
        if size > TABLE_SIZE:
            raise Http2Error(COMPRESSION_ERROR, f"the table of headers is {size} bytes; the limit is {TABLE_SIZE}")
        self.changed = True
        self._max_table = size
        self._evict()
        return at

    def _evict(self) -> None:
        while self._size > self._max_table:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + ENTRY_SIZE


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return the number at ``at`` and the position after it. The number begins in the bits of ``mask``."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if value > _MAX_INTEGER or shift > 28:
            raise Http2Error(COMPRESSION_ERROR, "a number in the headers is too large")
        if byte < 0x80:
            return value, at


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    coded = block[at] & 0x80
    length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise IndexError
    text = block[at:end]
    return (decode_huffman(text) if coded else text), end


def _encoded_integer(value: int, mask: int, first: int) -> bytes:
    if value < mask:
        return bytes((first | value,))
    encoded = bytearray((first | mask,))
    value -= mask
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encoded(name: bytes, value: bytes) -> bytes:
    """Return a header as a part of a block. It refers to the static table only, and has no Huffman code."""
    index = _INDEX_OF.get(name, 0)
    if index and STATIC[index - 1] == (name, value):
        return bytes((_INDEXED | index,))
    begin = _encoded_integer(index, 0x0F, 0)
    if not index:
        begin += _encoded_integer(len(name), 0x7F, 0) + name
    return begin + _encoded_integer(len(value), 0x7F, 0) + value
