"""Cuts the long strings out of the JSON of a repository request, so that no single step decodes them.

The JSON decoder holds the interpreter's lock until it has copied a whole string. A string with a model file has
hundreds of MiB. So each string that is longer than `MIN_CUT` is replaced with a mark. The caller then decodes such
strings in pieces. The search copies the text in pieces of `PIECE` bytes. A mark is the object ``{"cut": NUMBER}``. If a
request itself contains such an object, the object is replaced with a long string of the same request, which does no
harm.
"""

from typing import Any, Final

from clockwork.errors import InvalidRequestError
from clockwork.units import KIB, MIB, Bytes, show_bytes

MIN_CUT: Final[Bytes] = 4 * KIB
"""Length in bytes of the shortest string that is cut out."""

MAX_REST: Final[Bytes] = 1 * MIB
"""Limit of the JSON without long strings. There is a limit because this JSON is decoded in one step."""

PIECE: Final[Bytes] = 64 * KIB
"""Number of bytes that are searched in one step."""

_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")


class LongStrings:
    """A JSON text without its long strings (``rest``), and the long strings, which are still encoded as in JSON."""

    def __init__(self, text: memoryview) -> None:
        """Cut the long strings out of a JSON text.

        Raises:
            InvalidRequestError: the text without the long strings is too long.
        """
        self.rest = bytearray()
        self._strings: list[memoryview] = []
        copied = 0
        search = _Search(text)
        while (begin := search.quote()) is not None:
            end = search.closing_quote()
            if end is None:
                break
            if end - begin - 1 >= MIN_CUT:
                self._copy(text, copied, begin)
                self.rest += b'{"cut":%d}' % len(self._strings)
                self._strings.append(text[begin + 1 : end])
                copied = end + 1
        self._copy(text, copied, len(text))

    def restore(self, value: Any) -> Any:
        """Return the string for which a mark stands. If the value is not a mark, return the value itself."""
        if isinstance(value, dict) and value.keys() == {"cut"}:
            number = value["cut"]
            if type(number) is int and 0 <= number < len(self._strings):
                return self._strings[number]
        return value

    def _copy(self, text: memoryview, begin: int, end: int) -> None:
        if len(self.rest) + end - begin > MAX_REST:
            raise InvalidRequestError(
                f"the JSON without long strings exceeds the limit of {show_bytes(MAX_REST)}; send fewer parameters"
            )
        self.rest += text[begin:end]


class _Search:
    """Finds the strings in a JSON text. Each byte is read once."""

    def __init__(self, text: memoryview) -> None:
        self._text = text
        self._base = 0  #: position of the piece in the text
        self._piece = bytes(text[:PIECE])
        self._at = 0  #: position in the text

    def quote(self) -> int | None:
        """Return the position of the next quote, and continue the search after this quote."""
        while self._at < len(self._text):
            found = self._piece.find(b'"', self._at - self._base)
            if found >= 0:
                self._at = self._base + found + 1
                return self._base + found
            self._next_piece(len(self._piece))
        return None

    def closing_quote(self) -> int | None:
        """Return the position of the quote that ends the current string, and continue the search after this quote."""
        begin = self._at
        while (end := self.quote()) is not None:
            backslashes = 0
            while end - backslashes > begin and self._text[end - backslashes - 1] == _BACKSLASH:
                backslashes += 1
            if backslashes % 2 == 0:
                return end
        return None

    def _next_piece(self, used: int) -> None:
        self._base += used
        self._at = self._base
        self._piece = bytes(self._text[self._base : self._base + PIECE])
