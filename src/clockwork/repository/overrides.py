"""The configuration and the files that a load request contains, as in Triton's model repository extension.

The parameter ``config`` is a configuration in JSON; it replaces the model's config.pbtxt. A parameter
``file:1/model.onnx`` is the content of a file. If there are files, they replace the whole directory of the model for
this load, and ``config`` is required.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
from msgspec import Struct

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.messages.faults import quoted
from clockwork.repository.contents import is_ignored
from clockwork.runtimes.config_pbtxt import FILE, KEY, MAX_FILE, configured_batch
from clockwork.runtimes.scratch import ScratchDirectory
from clockwork.runtimes.text_format import MAX_DEPTH, Fields, Value
from clockwork.units import GIB, Bytes, show_bytes

CONFIG: Final = "config"
"""Name of the parameter with the configuration."""

PREFIX: Final = "file:"
"""Prefix of the names of parameters that contain files. The rest of the name is the file's path in the model's
directory.
"""

MAX_NAME: Final = 255
"""Limit on the length of a file's name in bytes, as on Linux."""

MAX_LEVELS: Final = 4
"""Largest number of parts of a file's path."""

PIECE: Final = 64 * 1024
"""Number of characters of base64 that are decoded in one step. A step takes 0.2 ms, and other threads can run between
two steps. The number is a multiple of four, so that each piece can be decoded separately.
"""

_ESCAPE: Final = 6
"""Length of the longest escape sequence in JSON."""

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])[A-Z]")


class OverrideLimits(Struct, frozen=True):
    """Limits on the files of one load request."""

    max_files: int = 1000
    max_total: Bytes = 2 * GIB


class LoadOverride(Struct, frozen=True):
    """The configuration in a load request, and its files by their path in the model's directory."""

    config: Fields
    files: dict[str, bytes | bytearray] = {}


def load_override(parameters: Mapping[str, Any], limits: OverrideLimits) -> LoadOverride | None:
    """Return the configuration and the files in the parameters of a load request, or None if there are none.

    Other parameters are ignored.

    Files are bytes (gRPC) or strings in base64 (HTTP). A long string is a memoryview, encoded as in JSON. Decoding a
    string takes a few seconds per GiB.

    Raises:
        InvalidRequestError: a parameter is wrong, or the files exceed a limit.
    """
    contents = {name[len(PREFIX) :]: value for name, value in parameters.items() if name.startswith(PREFIX)}
    config = parameters.get(CONFIG)
    if config is None:
        if contents:
            name = quoted(PREFIX + next(iter(contents)))
            raise InvalidRequestError(f"parameter {name} needs the parameter {CONFIG}: send the configuration as JSON")
        return None
    if isinstance(config, memoryview):
        config = _config_text(config)
    if not isinstance(config, str):
        raise InvalidRequestError(f"parameter {CONFIG} is of type {type(config).__name__}; it must be a string of JSON")
    fields = config_from_json(config)
    _batch(fields)
    return LoadOverride(fields, _files(contents, limits))


def config_from_json(text: str) -> Fields:
    """Return the fields of a configuration in protobuf's JSON format, in which names may also be in camelCase.

    Raises:
        InvalidRequestError: the text is not a JSON object, or is too long or too deeply nested.
    """
    _check_length(len(text))
    try:
        decoded = msgspec.json.decode(text)
        if not isinstance(decoded, dict):
            raise InvalidRequestError(f"parameter {CONFIG} is not a JSON object")
        return _fields(decoded, 0)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        reason = str(error) or "it is nested too deeply"
        raise InvalidRequestError(f"parameter {CONFIG} is not JSON: {reason}") from None


def _config_text(encoded: memoryview) -> str:
    _check_length(len(encoded))
    try:
        text: str = msgspec.json.decode(b'"' + bytes(encoded) + b'"', type=str)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidRequestError(f"parameter {CONFIG} is not JSON: {error}") from None
    return text


def _check_length(length: int) -> None:
    if length > MAX_FILE:
        raise InvalidRequestError(f"parameter {CONFIG} has more than {show_bytes(MAX_FILE)}, which is the limit")


def write_override(override: LoadOverride, name: str, place: Path) -> ScratchDirectory:
    """Write the files as ``NAME/...`` into a new temporary directory in ``place``. The directory is a model repository.

    The repository contains a config.pbtxt with ``max_batch_size``, the only field that runtimes use. The caller must
    remove the directory when the model is unloaded.

    Raises:
        InvalidRequestError: max_batch_size in the configuration is wrong.
        ServerError: the files cannot be written.
    """
    max_batch = _batch(override.config)
    files = dict(override.files)
    files[FILE] = b"" if max_batch is None else f"{KEY}: {max_batch}\n".encode()
    directory = None
    try:
        directory = ScratchDirectory(place)
        for path, content in files.items():
            file = directory.path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    except OSError as error:
        if directory is not None:
            directory.remove()
        raise ServerError(f"the files of model {name!r} cannot be written: {error.strerror}; retry later") from error
    return directory


def _batch(config: Fields) -> int | None:
    try:
        return configured_batch(config)
    except ValueError as error:
        raise InvalidRequestError(f"parameter {CONFIG} is wrong: {error}") from None


def _fields(decoded: dict[str, Any], depth: int) -> Fields:
    if depth >= MAX_DEPTH:
        raise InvalidRequestError(f"parameter {CONFIG} is nested deeper than {MAX_DEPTH}, which is the limit")
    fields: Fields = {}
    for name, found in decoded.items():
        values = found if isinstance(found, list) else [found]
        snake = _CAMEL.sub(lambda capital: f"_{capital[0].lower()}", name)
        fields[snake] = [_value(snake, value, depth) for value in values if value is not None]
    return fields


def _value(name: str, value: Any, depth: int) -> Value:
    if isinstance(value, dict):
        return _fields(value, depth + 1)
    if isinstance(value, list):
        raise InvalidRequestError(
            f"parameter {CONFIG} has a list of lists in {quoted(name)}; no field has such a value"
        )
    scalar: Value = value
    return scalar


def _files(contents: Mapping[str, Any], limits: OverrideLimits) -> dict[str, bytes | bytearray]:
    if len(contents) > limits.max_files:
        raise InvalidRequestError(f"the load has {len(contents)} files; the limit is {limits.max_files}")
    total: Bytes = sum(_size(name, content) for name, content in contents.items())
    if total > limits.max_total:
        raise InvalidRequestError(
            f"the files of the load have {show_bytes(total)}; the limit is {show_bytes(limits.max_total)}: "
            "put them into the model repository"
        )
    files: dict[str, bytes | bytearray] = {}
    for name, content in contents.items():
        path = _checked(name)
        if path in files:
            raise InvalidRequestError(f"the load has two files {quoted(path)}; send one")
        files[path] = _decoded(name, content)
    for path in files:
        outer = next((str(parent) for parent in PurePosixPath(path).parents if str(parent) in files), None)
        if outer is not None:
            raise InvalidRequestError(f"{quoted(outer)} of the load is a file and the directory of {quoted(path)}")
    return files


def _checked(name: str) -> str:
    """Return a file's path without redundant slashes."""
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or len(path.parts) > MAX_LEVELS
        or any(is_ignored(part) or len(part.encode("utf-8", "replace")) > MAX_NAME for part in path.parts)
        or "\0" in name
        or not name.isprintable()
    ):
        raise InvalidRequestError(
            f"{quoted(name)} in a parameter {PREFIX}PATH is not a path in the model's directory; example: "
            f"{PREFIX}1/model.onnx"
        )
    return str(path)


def _size(name: str, content: Any) -> Bytes:
    if isinstance(content, bytes):
        return len(content)
    if isinstance(content, str | memoryview):
        return len(content) * 3 // 4
    kind = type(content).__name__
    raise InvalidRequestError(
        f"parameter {quoted(PREFIX + name)} is of type {kind}; it must be bytes, or a string in base64"
    )


def _decoded(name: str, content: bytes | str | memoryview) -> bytes | bytearray:
    if isinstance(content, bytes):
        return content
    decoded = bytearray()
    left = b""  #: characters that do not fill a group of four yet
    try:
        for piece in _pieces(content):
            if decoded and not len(decoded) % 3 == 0:
                raise ValueError("padding before the end")
            text = left + piece
            whole = len(text) // 4 * 4
            decoded += base64.b64decode(text[:whole], validate=True)
            left = text[whole:]
        decoded += base64.b64decode(left, validate=True)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidRequestError(f"parameter {quoted(PREFIX + name)} is not base64; encode the file's bytes") from None
    return decoded


def _pieces(content: str | memoryview) -> Iterator[bytes]:
    """Return the characters of a string in pieces. Escape sequences are decoded if the string is encoded as in JSON."""
    at = 0
    while at < len(content):
        if isinstance(content, str):
            piece = content[at : at + PIECE].encode()
            at += PIECE
            yield piece
            continue
        piece = bytes(content[at : at + PIECE])
        begin = piece.rfind(b"\\", max(1, len(piece) - _ESCAPE)) if at + PIECE < len(content) else -1
        if begin > 0:  # the escape sequence may continue in the next piece
            piece = piece[:begin]
        at += len(piece)
        yield msgspec.json.decode(b'"' + piece + b'"', type=str).encode() if b"\\" in piece else piece
