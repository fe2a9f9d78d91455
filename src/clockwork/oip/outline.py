"""Cuts the long lists of numbers out of the JSON of an inference request. The JSON without them is called the outline.

The outline is decoded in one step, and each list is decoded in several steps. The search skips strings. For the search,
a list begins at a ``[`` and ends at the last ``]`` before the next brace or quote. Each list that is longer than
`MIN_CUT` is replaced with a mark. The outline may have at most `MAX_OUTLINE` bytes. This module does not check the
content of the lists, because their decoder checks it. A mark is a JSON object, so it cannot be confused with the data
of a tensor.
"""

import re
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.oip.elements import Text
from clockwork.steps import Steps
from clockwork.units import KIB, MIB, Bytes, show_bytes

MIN_CUT: Final[Bytes] = 1 * KIB
"""Length in bytes of the shortest list of numbers that is cut out."""

MAX_OUTLINE: Final[Bytes] = 256 * KIB
"""Longest outline in bytes. There is a limit because the outline is decoded in one step."""

MAX_COPIED: Final[Bytes] = 1 * MIB
"""Number of bytes that are copied in one step."""

MAX_SKIPPED: Final = 256
"""Number of strings that the search skips in one step."""

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MARK: Final = re.compile(rb'\{"cut":(\d{1,6})\}')


class Outline:
    """The outline of a JSON text, and the lists that were cut out of the text."""

    def __init__(self, text: bytearray) -> None:
        """Create an empty outline. `outlined` fills the outline."""
        self.text = text
        self.rest = bytearray()
        self._cuts: dict[int, tuple[int, int]] = {}  #: number of each remaining list -> its begin and end in the text
        self._copied = 0  #: position up to which the text was copied or cut out

    def list_of(self, data: bytes) -> Text:
        """Return the list that belongs to a mark, and remove the list from the table.

        If ``data`` is not a mark, return ``data`` itself.
        """
        mark = _MARK.fullmatch(data)
        found = None if mark is None else self._cuts.pop(int(mark[1]), None)
        return Text(data, 0, len(data)) if found is None else Text(self.text, *found)

    def cut(self, begin: int, end: int) -> None:
        """Put a mark into the outline in place of the text from ``begin`` to ``end``."""
        self.copy(begin)
        number = len(self._cuts)
        self.rest += b'{"cut":%d}' % number
        self._cuts[number] = begin, end
        self._copied = end

    def copy(self, end: int) -> None:
        """Copy the text up to ``end`` to the outline."""
        self.check(end)
        self.rest += self.text[self._copied : end]
        self._copied = end

    def check(self, end: int) -> None:
        """Check that the outline would not be too long if the text up to ``end`` was copied.

        Raises:
            InvalidRequestError: the outline would be too long.
        """
        if len(self.rest) + end - self._copied > MAX_OUTLINE:
            raise InvalidRequestError(
                f"the JSON without lists of numbers exceeds the limit of {show_bytes(MAX_OUTLINE)}; send tensors as "
                "binary data"
            )


def outlined(view: memoryview) -> Steps[Outline]:
    """Cut the long lists of numbers out of a JSON text.

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
    """Cut out the long lists between ``at`` and ``end``, and return ``end``.

    The text between ``at`` and ``end`` has no strings.
    """
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
    """Finds the next brace in a text. The search reads each part of the text only once."""

    def __init__(self, text: bytearray) -> None:
        self._text = text
        self._next = {b"{": -1, b"}": -1}

    def after(self, at: int) -> int:
        """Return the position of the first brace at or after ``at``, or the end of the text if there is none."""
        for brace, place in self._next.items():
            if place < at:
                found = self._text.find(brace, at)
                self._next[brace] = len(self._text) if found < 0 else found
        return min(self._next.values())
