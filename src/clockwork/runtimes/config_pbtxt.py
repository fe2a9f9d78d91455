"""Reads Triton's ``config.pbtxt``. The runtimes use only the field ``max_batch_size``.

The whole file must be well-formed protobuf text, because a file that cannot be parsed might forbid batching.
"""

from pathlib import Path
from typing import Final

from clockwork.errors import InvalidModelError
from clockwork.runtimes.text_format import Fields, parse_text
from clockwork.units import MIB, Bytes

FILE: Final = "config.pbtxt"
KEY: Final = "max_batch_size"

MAX_FILE: Final[Bytes] = MIB
"""Limit of the size of a config.pbtxt file."""

MAX_BATCH_SIZE: Final = 999_999_999
"""Largest accepted value of max_batch_size."""


def max_batch_size(path: Path, file: Path) -> int | None:
    """Return max_batch_size from the config.pbtxt of a model, or None if there is no such file or field.

    Only the file in the model's own directory is read. ``file`` is the model file that `clockwork.runtimes.locating`
    finds for ``path``.

    Raises:
        InvalidModelError: the file cannot be read, or the value is wrong.
    """
    config = beside(path, file)
    fields = None if config is None else read_config(config, path.name)
    try:
        return None if fields is None else configured_batch(fields)
    except ValueError as error:
        raise InvalidModelError(f"{FILE} of {path.name!r} cannot be read: {error}; correct or remove it") from None


def read_config(config: Path, model: str) -> Fields | None:
    """Return the fields of a config.pbtxt, or None if the file does not exist. Messages contain ``model``.

    Raises:
        InvalidModelError: the file cannot be read.
    """
    try:
        if not config.is_file():
            return None
        with config.open("rb") as source:
            content = source.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidModelError(f"{FILE} of {model!r} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE:
        raise InvalidModelError(f"{FILE} of {model!r} is longer than {MAX_FILE} bytes: shorten it")
    try:
        return parse_text(content.decode())
    except ValueError as error:
        raise InvalidModelError(f"{FILE} of {model!r} cannot be read: {error}; correct or remove it") from None


def configured_batch(fields: Fields) -> int | None:
    """Return max_batch_size from the fields of a configuration, or None if it is not set.

    Raises:
        ValueError: the value is not a non-negative whole number.
    """
    values = fields.get(KEY)
    if not values:
        return None
    value = values[-1]
    if type(value) is not int or not 0 <= value <= MAX_BATCH_SIZE:
        raise ValueError(f"{KEY} is {_shown(value)}; it must be a whole number from 0 to {MAX_BATCH_SIZE}")
    return value


def _shown(value: object) -> str:
    return "a message" if isinstance(value, dict) else repr(value)[:40]


def beside(path: Path, file: Path) -> Path | None:
    """Return ``NAME/config.pbtxt`` for ``NAME/1/model.onnx`` or ``NAME/model.onnx``.

    If the path is a model file with a different name, such as ``resnet.onnx``, return None. The directory of such a
    file may contain several models, so its config.pbtxt may belong to another model.
    """
    if path == file and file.stem != "model":
        return None
    directory = file.parent
    if directory.name == file.name:  # Triton's layout of a model with external data
        directory = directory.parent
    return (directory.parent if directory.name.isdecimal() else directory) / FILE
