"""The JSON of a long inference request without its long lists of numbers, so that little is left to decode at once.

Theory of operation. Text outside strings is searched for lists of numbers: from a ``[`` to the last ``]`` before a
brace or a quote. Each that is longer than `LONG` is replaced by a mark, and what remains may have `MAX_OUTLINE` bytes.
The lists are checked when they are decoded, so nothing here needs to understand them. A mark is a JSON object, which
no tensor's data is.
"""

import re
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.oip.elements import Text
from clockwork.steps import Steps
from clockwork.units import KIB, MIB, Bytes, show_bytes

LONG: Final[Bytes] = 1 * KIB
"""Lists of numbers that are shorter stay where they are."""

MAX_OUTLINE: Final[Bytes] = 256 * KIB
"""JSON of one request without its long lists of numbers; it is decoded in one step."""

COPIED: Final[Bytes] = 1 * MIB
"""Bytes that are copied in one step."""

STRINGS: Final = 256
"""Strings that are passed over in one step."""

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MARK: Final = re.compile(rb'\{"cut":(\d{1,6})\}')


class Outline:
    """What remains of a text, and the lists that were cut out of it."""

    def __init__(self, text: bytearray) -> None:
        """Nothing is cut out yet; see `outlined`."""
        self.text = text
        self.rest = bytearray()
        self._cuts: dict[int, tuple[int, int]] = {}  #: by their numbers; those not asked for yet
        self._copied = 0  #: of the text, up to there

    def list_of(self, data: bytes) -> Text:
        """The list that ``data`` is the mark of, once; ``data`` itself, if it is none."""
        mark = _MARK.fullmatch(data)
        found = None if mark is None else self._cuts.pop(int(mark[1]), None)
        return Text(data, 0, len(data)) if found is None else Text(self.text, *found)

    def cut(self, begin: int, end: int) -> None:
        """Replace a list by a mark."""
        self.copy(begin)
        number = len(self._cuts)
        self.rest += b'{"cut":%d}' % number
        self._cuts[number] = begin, end
        self._copied = end

    def copy(self, end: int) -> None:
        """What comes before ``end`` remains."""
        self.check(end)
        self.rest += self.text[self._copied : end]
        self._copied = end

    def check(self, end: int) -> None:
        """Whether what comes before ``end`` may remain.

        Raises:
            InvalidRequestError: it is too much.
        """
        if len(self.rest) + end - self._copied > MAX_OUTLINE:
            raise InvalidRequestError(
                f"the JSON has more than {show_bytes(MAX_OUTLINE)} beside lists of numbers; that is the limit: send "
                "tensors with the binary data extension"
            )


def outlined(view: memoryview) -> Steps[Outline]:
    """Cut long lists of numbers out of a text.

    Raises:
        InvalidRequestError: too much remains.
    """
    text = bytearray()
    for at in range(0, len(view), COPIED):
        text += view[at : at + COPIED]
        yield
    made = Outline(text)
    braces = _Braces(text)
    at = passed = 0
    while at < len(text):
        quote = text.find(b'"', at)
        end = len(text) if quote < 0 else quote
        if end - at >= LONG:
            yield
            at = yield from _cut_lists(made, braces, at, end)
        made.check(min(end, at + LONG))
        if quote < 0:
            break
        string = _STRING.match(text, quote, quote + MAX_OUTLINE)
        if string is None:  # it does not end, or it is too long
            made.check(min(len(text), quote + MAX_OUTLINE))
            break
        at = string.end()
        made.check(at)
        passed += 1
        if passed % STRINGS == 0:
            yield
    made.copy(len(text))
    return made


def _cut_lists(made: Outline, braces: "_Braces", at: int, end: int) -> Steps[int]:
    """Cut out the long lists of a stretch without strings; returns its end."""
    text = made.text
    looked = 0
    while end - at >= LONG:
        begin = text.find(b"[", at, end)
        if begin < 0:
            break
        brace = min(braces.after(begin), end)
        stop = text.rfind(b"]", begin, brace) + 1
        if stop - begin >= LONG:
            made.cut(begin, stop)
        at = brace + 1
        made.check(min(at, end))
        looked += 1
        if looked % STRINGS == 0:
            yield
    return end


class _Braces:
    """Where the next brace is; each stretch of the text is searched once."""

    def __init__(self, text: bytearray) -> None:
        self._text = text
        self._next = {b"{": -1, b"}": -1}

    def after(self, at: int) -> int:
        """The place of the first brace behind ``at``, or the end of the text."""
        for brace, place in self._next.items():
            if place < at:
                found = self._text.find(brace, at)
                self._next[brace] = len(self._text) if found < 0 else found
        return min(self._next.values())
