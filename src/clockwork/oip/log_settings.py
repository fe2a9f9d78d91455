"""The log settings of Triton's logging extension: their names, their values, and the changes that are possible."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from clockwork.messages.faults import quoted
from clockwork.oip.failures import bad_request

DEFAULT_FORMAT: Final = "default"
"""Value of ``log_format`` if the log is for people."""

MAX_VERBOSE_LEVEL: Final = 2**32 - 1
"""Largest ``log_verbose_level``. The gRPC protocol has 32 bits for the level."""

_FIXED: Final = {
    "log_file": "it cannot be changed; the server writes its log to stderr",
    "log_format": "it cannot be changed while the server runs; start the server with --log-format",
}
"""Settings that cannot be changed, and the rest of the error message."""


class LogSettings(Struct, frozen=True):
    """The settings, by Triton's names.

    - ``log_file``: always empty, because the log is written to stderr
    - ``log_info``, ``log_warning``, ``log_error``: whether lines of this level are logged
    - ``log_verbose_level``: debug lines are logged if the level is at least 1
    - ``log_format``: ``default``, or ``json`` if each line is a JSON document
    """

    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = DEFAULT_FORMAT

    def values(self) -> dict[str, Any]:
        """Return the value of each setting by its name."""
        return asdict(self)

    def changed(self, values: Mapping[str, Any]) -> "LogSettings":
        """Return the settings with some values changed. The other settings keep their values.

        Raises:
            RequestFailedError: a name is unknown, a value has the wrong type, or a setting cannot be changed.
        """
        for name, value in values.items():
            self._check(name, value)
        return msgspec.structs.replace(self, **values)

    def _check(self, name: str, value: Any) -> None:
        names = self.__struct_fields__
        if name not in names:
            raise bad_request(f"log setting {quoted(name)} is unknown; expected one of: {', '.join(names)}")
        if name in _FIXED:
            if value != (now := getattr(self, name)):
                raise bad_request(f"{name} is {quoted(now)}; {_FIXED[name]}")
        elif name == "log_verbose_level":
            if type(value) is not int or not 0 <= value <= MAX_VERBOSE_LEVEL:
                shown = quoted(str(value))
                raise bad_request(f"{name} is {shown}; it must be an integer from 0 to {MAX_VERBOSE_LEVEL}")
        elif type(value) is not bool:
            raise bad_request(f"{name} is {quoted(str(value))}; it must be true or false")


def decoded_settings(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Decode the body of a request that changes log settings. An empty body changes nothing.

    Raises:
        RequestFailedError: the body is not a JSON object.
    """
    if not bytes(body).strip():
        return {}
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the body is not an object of log settings: {error}") from None
