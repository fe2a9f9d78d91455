"""Cuts the long lists of numbers out of the JSON of an inference request, so that little JSON is decoded in one step.

Theory of operation. The text outside strings is searched for lists of numbers: from a ``[`` to the last ``]`` before a
brace or a quote. Each list longer than `MIN_CUT` is replaced by a mark; the rest, the outline, may have `MAX_OUTLINE`
bytes. The lists are checked when they are decoded, so this module need not understand them. A mark is a JSON object,
and the data of a tensor is never an object.
"""

import re
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.oip.elements import Text
from clockwork.steps import Steps
from clockwork.units import KIB, MIB, Bytes, show_bytes

MIN_CUT: Final[Bytes] = 1 * KIB
"""Length in bytes below which a list of numbers is not cut out."""

MAX_OUTLINE: Final[Bytes] = 256 * KIB
"""Limit on the outline in bytes. The outline is decoded in one step."""

MAX_COPIED: Final[Bytes] = 1 * MIB
"""Number of bytes copied in one step."""

MAX_SKIPPED: Final = 256
"""Number of strings skipped in one step."""

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MARK: Final = re.compile(rb'\{"cut":(\d{1,6})\}')


class Outline:
    """The rest of a text, and the lists that were cut out of it."""

    def __init__(self, text: bytearray) -> None:
        """Start with nothing cut out; `outlined` does the work."""
        self.text = text
        self.rest = bytearray()
        self._cuts: dict[int, tuple[int, int]] = {}  #: begin and end by number, of lists not returned yet
        self._copied = 0  #: end of the text that was copied or cut out

    def list_of(self, data: bytes) -> Text:
        """Return the list whose mark is ``data``, and forget the list. If ``data`` is not a mark, return ``data``."""
        mark = _MARK.fullmatch(data)
        found = None if mark is None else self._cuts.pop(int(mark[1]), None)
        return Text(data, 0, len(data)) if found is None else Text(self.text, *found)

    def cut(self, begin: int, end: int) -> None:
        """Replace the text from ``begin`` to ``end`` by a mark."""
        self.copy(begin)
        number = len(self._cuts)
        self.rest += b'{"cut":%d}' % number
        self._cuts[number] = begin, end
        self._copied = end

    def copy(self, end: int) -> None:
        """Copy the text before ``end`` to the outline."""
        self.check(end)
        self.rest += self.text[self._copied : end]
        self._copied = end

    def check(self, end: int) -> None:
        """Check whether the text before ``end`` fits the outline.

        Raises:
            InvalidRequestError: the outline would be too long.
        """
        if len(self.rest) + end - self._copied > MAX_OUTLINE:
            raise InvalidRequestError(
                f"the JSON without lists of numbers exceeds the limit of {show_bytes(MAX_OUTLINE)}; send tensors as "
                "binary data"
            )


def outlined(view: memoryview) -> Steps[Outline]:
    """Cut the long lists of numbers out of a text.

    Raises:
        InvalidRequestError: the outline is too long.
    """
    text = bytearray()
    for at in range(0, len(view), MAX_COPIED):
        text += view[at : at + MAX_COPIED]
        yield
    outline = Outline(text)
    braces = _Braces(text)
    at = passed = 0
    while at < len(text):
        quote = text.find(b'"', at)
        end = len(text) if quote < 0 else quote
        if end - at >= MIN_CUT:
            yield
            at = yield from _cut_lists(outline, braces, at, end)
        outline.check(min(end, at + MIN_CUT))
        if quote < 0:
            break
        string = _STRING.match(text, quote, quote + MAX_OUTLINE)
        if string is None:  # the string does not end, or is too long
            outline.check(min(len(text), quote + MAX_OUTLINE))
            break
        at = string.end()
        outline.check(at)
        passed += 1
        if passed % MAX_SKIPPED == 0:
            yield
    outline.copy(len(text))
    return outline


def _cut_lists(outline: Outline, braces: "_Braces", at: int, end: int) -> Steps[int]:
    """Cut out the long lists between ``at`` and ``end``, where the text has no strings; return the end."""
    text = outline.text
    searched = 0
    while end - at >= MIN_CUT:
        begin = text.find(b"[", at, end)
        if begin < 0:
            break
        brace = min(braces.after(begin), end)
        stop = text.rfind(b"]", begin, brace) + 1
        if stop - begin >= MIN_CUT:
            outline.cut(begin, stop)
        at = brace + 1
        outline.check(min(at, end))
        searched += 1
        if searched % MAX_SKIPPED == 0:
            yield
    return end


class _Braces:
    """Finds the next brace; each part of the text is searched once."""

    def __init__(self, text: bytearray) -> None:
        self._text = text
        self._next = {b"{": -1, b"}": -1}

    def after(self, at: int) -> int:
        """Return the place of the first brace from ``at`` on, or the end of the text."""
        for brace, place in self._next.items():
            if place < at:
                found = self._text.find(brace, at)
                self._next[brace] = len(self._text) if found < 0 else found
        return min(self._next.values())
