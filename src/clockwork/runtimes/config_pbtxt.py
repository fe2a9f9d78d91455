"""Reads ``max_batch_size``, the only key that Clockwork uses, from Triton's ``config.pbtxt``.

The rest of the file is skipped, but it must be well-formed protobuf text: a file that cannot be parsed might forbid
batching. Only the file in the model's own directory is read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clockwork.errors import InvalidModelError
from clockwork.units import MIB, Bytes

FILE: Final = "config.pbtxt"
KEY: Final = "max_batch_size"

MAX_FILE: Final[Bytes] = MIB
"""Limit of the file size."""

MAX_DEPTH: Final = 64
"""Limit of the depth of nested messages."""

_TOKEN: Final = re.compile(
    r"""\s+|\#[^\n]*|(?P<word>[A-Za-z_][\w.]*)|(?P<number>[+-]?[\d.][\w.+-]*)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<sign>[{}<>\[\]:;,/-])"""
)
_CLOSING: Final = {"}": "{", "]": "[", ">": "<"}


def max_batch_size(path: Path, file: Path) -> int | None:
    """Return max_batch_size from the config.pbtxt of a model; None if there is no such file or key.

    ``file`` is the model file that ``path`` means; see `clockwork.runtimes.locating`.

    Raises:
        InvalidModelError: the file cannot be read.
    """
    try:
        config = _beside(path, file)
        if config is None or not config.is_file():
            return None
        with config.open("rb") as source:
            content = source.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidModelError(f"{FILE} of {path.name!r} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE:
        raise InvalidModelError(f"{FILE} of {path.name!r} is longer than {MAX_FILE} bytes: shorten it")
    try:
        return parse(content.decode())
    except ValueError as error:
        raise InvalidModelError(f"{FILE} of {path.name!r} cannot be read: {error}; correct or remove it") from None


def _beside(path: Path, file: Path) -> Path | None:
    """Return ``NAME/config.pbtxt`` for ``NAME/1/model.onnx`` or ``NAME/model.onnx``.

    Return None if the path is the model file itself and the file is not called ``model``: its directory may contain
    several models.
    """
    if path == file and file.stem != "model":
        return None
    directory = file.parent
    if directory.name == file.name:  # Triton's layout of a model with external data
        directory = directory.parent
    return (directory.parent if directory.name.isdecimal() else directory) / FILE


def parse(text: str) -> int | None:
    """Return max_batch_size from protobuf text; None if the key is missing.

    Raises:
        ValueError: the text is not protobuf text, or the value is not a non-negative whole number.
    """
    found: int | None = None
    depth: list[str] = []
    before = ["", ""]
    for kind, token, line in _tokens(text):
        if not depth and before[1] == KEY and token != ":":
            raise ValueError(f"line {line} gives {KEY} no value")
        if token in _CLOSING:
            if not depth or depth.pop() != _CLOSING[token]:
                raise ValueError(f"line {line} has a {token!r} that closes nothing")
        elif token in _CLOSING.values():
            depth.append(token)
            if len(depth) > MAX_DEPTH:
                raise ValueError(f"line {line} is nested deeper than {MAX_DEPTH}")
        elif not depth and before[1] == ":" and before[0] == KEY:
            if kind != "number" or not token.isdecimal() or len(token) > 9:
                raise ValueError(f"line {line} gives {KEY} a value that is not a non-negative whole number")
            found = int(token)
        before = [before[1], token]
    if depth:
        raise ValueError(f"a {depth[-1]!r} is not closed")
    if before[1] == KEY or before == [KEY, ":"]:
        raise ValueError(f"{KEY} has no value")
    return found


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield the kind, the text and the line number of each token."""
    position = 0
    line = 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"line {line} is not protobuf text")
        if match.lastgroup is not None:
            yield match.lastgroup, match[0], line
        line += match[0].count("\n")
        position = match.end()
