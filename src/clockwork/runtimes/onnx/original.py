"""Opens sessions of original model files. If ONNX Runtime refuses a file, the error contains ONNX Runtime's reason.

ONNX Runtime's Python interface accepts only UTF-8 paths. If the path of a file is not UTF-8, the session gets the
content of the file, and finds external data through a link in /proc/self/fd to the directory. If an error text contains
a name that is not UTF-8, Python does not receive the text. In this case, such names are replaced and the model is
opened again, so that the reason can be read.
"""

import os
import re
from typing import Any, Final

import onnx

from clockwork.errors import InvalidModelError
from clockwork.runtimes.onnx.files import ModelFile
from clockwork.runtimes.onnx.sessions import FAILURES, describe, options, session

_FOLDER: Final = "session.model_external_initializers_file_folder_path"
_PREFIX: Final = re.compile(r"Load model from .*? failed: *", re.DOTALL)


def open_original(file: ModelFile, with_options: Any) -> Any:
    """Open a session of a checked model file.

    Raises:
        InvalidModelError: ONNX Runtime cannot load the model.
    """
    try:
        return _open(file, file.content, with_options)
    except FAILURES as error:
        raise InvalidModelError(f"ONNX Runtime cannot load {file.path.name!r}: {_reason(file, error)}") from error


def _open(file: ModelFile, content: bytes | None, with_options: Any) -> Any:
    if content is None and not _is_utf8(str(file.path)):
        content = file.path.read_bytes()
    if content is None:
        return session(str(file.path), with_options)
    directory = os.open(file.folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with_options.add_session_config_entry(_FOLDER, f"/proc/self/fd/{directory}")
        return session(content, with_options)
    finally:
        os.close(directory)


def _reason(file: ModelFile, error: Exception) -> str:
    if not str(error):
        model = onnx.ModelProto()
        model.ParseFromString(file.content or file.path.read_bytes())
        replace_names(model)
        try:
            _open(file, model.SerializeToString(), options(1))
        except FAILURES as same:
            error = same
    text = str(error).replace(str(file.path.parent) + os.sep, "")
    return describe(RuntimeError(_PREFIX.sub("", text))) if text else type(error).__name__


def replace_names(message: Any) -> None:
    """Replace bytes that are not UTF-8 in all strings of a protobuf message. protobuf returns such strings as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if isinstance(value, bytes):
                setattr(message, field.name, value.decode(errors="replace"))
            elif not isinstance(value, str):
                value[:] = [text.decode(errors="replace") if isinstance(text, bytes) else text for text in value]
        elif field.type == field.TYPE_MESSAGE:
            for part in value if hasattr(value, "append") else (value,):
                replace_names(part)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
