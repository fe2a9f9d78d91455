"""Parses protobuf text, the format of Triton's ``config.pbtxt``, without a schema.

The parser does not check the names of fields. So the parser accepts every well-formed file of any release of Triton.
"""

import re
from typing import Final, TypeAlias, Union

Value: TypeAlias = Union[str, int, float, bool, "Fields"]
"""A scalar or a message. Enum values are strings."""

Fields: TypeAlias = dict[str, list[Value]]
"""The fields of a message by name. Every field has a list of values, because the text does not show which fields are
repeated.
"""

MAX_DEPTH: Final = 64
"""Limit of the depth of nested messages and lists."""

_TOKEN: Final = re.compile(
    r"""\s+|\#[^\n]*|(?P<word>[A-Za-z_][\w.]*)|(?P<number>[+-]?[\d.][\w.+-]*)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<sign>[{}<>\[\]:;,/-])"""
)
_CLOSING: Final = {"{": "}", "[": "]", "<": ">"}
_BOOLEANS: Final[dict[str, Value]] = {"true": True, "True": True, "false": False, "False": False}
_ESCAPE: Final = re.compile(r"\\(?:x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPED: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse_text(text: str) -> Fields:
    """Return the fields of a message in protobuf text.

    Raises:
        ValueError: the text is not protobuf text. The error names the line.
    """
    return _Parser(text).message()


class _Parser:
    """Parses one text by recursive descent. The parser reads one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1
        self._open: list[str] = []  #: opening brackets that are not closed yet
        self._kind = self._token = ""  #: the next token; its kind is empty at the end of the text
        self._advance()

    def message(self, end: str = "") -> Fields:
        """Return the fields up to the closing bracket ``end``. If ``end`` is empty, return all fields of the text."""
        fields: Fields = {}
        while self._token != end or not self._kind:
            if not self._kind and not end:
                break
            name = self._name()
            values = fields.setdefault(name, [])
            colon = self._token == ":"
            if colon:
                self._advance()
            if self._token == "[":
                values += self._list(name)
            elif self._token in ("{", "<"):
                values.append(self._message())
            elif colon:
                values.append(self._scalar(name))
            else:
                raise self._no_value(name)
            if self._token in (",", ";"):
                self._advance()
        return fields

    def _name(self) -> str:
        if self._kind == "word":
            return self._advance()
        if self._token == "[":  # names in brackets are extensions, or types of an Any
            self._enter()
            parts = []
            while self._kind and self._token != "]":
                parts.append(self._advance())
            self._leave("]")
            return f"[{''.join(parts)}]"
        raise self._unexpected()

    def _message(self) -> Fields:
        end = self._enter()
        fields = self.message(end)
        self._leave(end)
        return fields

    def _list(self, name: str) -> list[Value]:
        end = self._enter()
        values: list[Value] = []
        while self._token != end or not self._kind:
            values.append(self._message() if self._token in ("{", "<") else self._scalar(name))
            if self._token != ",":
                break
            self._advance()
        self._leave(end)
        return values

    def _scalar(self, name: str) -> Value:
        line = self._line
        if self._kind == "text":
            parts = []
            while self._kind == "text":
                parts.append(_ESCAPE.sub(_unescaped, self._advance()[1:-1]))
            return "".join(parts)
        negative = self._token == "-"
        if negative:
            self._advance()
        if self._kind == "word":
            word = self._advance()
            return f"-{word}" if negative else _BOOLEANS.get(word, word)
        if self._kind != "number":
            raise self._no_value(name)
        try:
            number = _number(self._advance())
        except ValueError:
            raise ValueError(f"line {line} gives {name} an invalid number") from None
        return -number if negative else number

    def _enter(self) -> str:
        """Consume an opening bracket. Return the matching closing bracket."""
        self._open.append(self._token)
        if len(self._open) > MAX_DEPTH:
            raise ValueError(f"line {self._line} is nested deeper than {MAX_DEPTH}")
        return _CLOSING[self._advance()]

    def _leave(self, end: str) -> None:
        if self._token != end:
            raise self._unexpected()
        self._open.pop()
        self._advance()

    def _no_value(self, name: str) -> ValueError:
        where = f"line {self._line}" if self._kind else "the last line"
        return ValueError(f"{where} gives {name} no value")

    def _unexpected(self) -> ValueError:
        if not self._kind:
            return ValueError(f"a {self._open[-1]!r} is not closed")
        if self._token in _CLOSING.values():
            return ValueError(f"line {self._line} has a {self._token!r} without a matching bracket")
        # Errors do not contain parts of the text, because the file may be a link to a different user's file.
        return ValueError(f"line {self._line} has no field name where one is expected")

    def _advance(self) -> str:
        """Read the next token. Return the current token."""
        current = self._token
        while self._position < len(self._text):
            match = _TOKEN.match(self._text, self._position)
            if match is None:
                raise ValueError(f"line {self._line} is not protobuf text")
            self._position = match.end()
            if match.lastgroup is not None:
                self._kind, self._token = match.lastgroup, match[0]
                return current
            self._line += match[0].count("\n")
        self._kind = self._token = ""
        return current


def _number(token: str) -> int | float:
    digits = token.lstrip("+-")
    if digits.isdecimal():
        octal = digits[0] == "0" and len(digits) > 1
        return int(token, 8) if octal else int(token)
    return int(token, 16) if digits[:2].lower() == "0x" else float(token.rstrip("fF"))


def _unescaped(match: re.Match[str]) -> str:
    code = match[0][1:]
    if code[0] in "xuU" and len(code) > 1:
        return chr(min(int(code[1:], 16), 0x10FFFF))
    return chr(int(code, 8)) if code[0] in "01234567" else _ESCAPED.get(code, code)
