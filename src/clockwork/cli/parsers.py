"""Parses durations, sizes, factors and addresses on the command line.

A parser accepts text, or a default value that is already parsed. The error messages contain examples of correct values.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

import typer

from clockwork.errors import InvalidRequestError
from clockwork.http.config import HTTP_PORT
from clockwork.net.address import CLIENT_PORT, GRPC_PORT, HEALTH_PORT, WORKER_PORT, Address, parse_address
from clockwork.units import GIB, KIB, MIB, MICROSECOND, MILLISECOND, SECOND, Bytes, Nanos

_DURATION_UNITS: Final = {"us": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "": SECOND, "min": 60 * SECOND}
_BINARY_UNITS: Final = {"": 1, "b": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB}
_SIZE_UNITS: Final = _BINARY_UNITS | {"kb": 10**3, "mb": 10**6, "gb": 10**9}
_QUANTITY: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?|\.\d{1,9})\s*([a-z]*)", re.IGNORECASE)


def duration(value: str | int) -> Nanos:
    """Parse a duration such as ``250ms``, ``0.1s`` or ``2min``. A number without a unit is in seconds.

    Zero is an error.
    """
    if isinstance(value, int):
        return value
    found = _QUANTITY.fullmatch(value.strip())
    if found is None or found[2] not in _DURATION_UNITS or not float(found[1]):
        raise typer.BadParameter(f"invalid duration {value!r}; examples: 250ms, 1.5s, 2min")
    return round(float(found[1]) * _DURATION_UNITS[found[2]])


def size(value: str | int) -> Bytes:
    """Parse a size such as ``2GiB`` or ``512M`` (powers of 1024), or ``2GB`` (powers of 1000).

    A number without a unit is in bytes. Zero is an error.
    """
    if isinstance(value, int):
        return value
    found = _QUANTITY.fullmatch(value.strip())
    if found is None or found[2].lower() not in _SIZE_UNITS or not float(found[1]):
        raise typer.BadParameter(f"invalid size {value!r}; examples: 512MiB, 2GiB")
    return round(float(found[1]) * _SIZE_UNITS[found[2].lower()])


def size_or_none(value: str | int) -> Bytes:
    """Parse a size, or the word ``none``, which means 0."""
    return 0 if value == "none" else size(value)


def size_or_zero(value: str | int) -> Bytes:
    """Parse a size, which may be 0."""
    return 0 if str(value).strip() == "0" else size(value)


def factor(text: str) -> float:
    """Parse a factor such as ``2x``, ``0.5x`` or ``2``."""
    try:
        value = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise typer.BadParameter(f"invalid factor {text!r}; examples: 2x, 0.5x")
    return value


def client_address(value: str | Address) -> Address:
    """Parse ``HOST:PORT``. The default port is the port for clients of the native protocol."""
    return _address(value, CLIENT_PORT)


def worker_address(value: str | Address) -> Address:
    """Parse ``HOST:PORT``. The default port is the port for workers."""
    return _address(value, WORKER_PORT)


def grpc_address(value: str | Address) -> Address | None:
    """Parse ``HOST:PORT`` or ``none``. The default port is the port for gRPC."""
    return None if value == "none" else _address(value, GRPC_PORT)


def health_address(value: str | Address) -> Address | None:
    """Parse the address of a worker's health checks. ``none`` disables the health checks."""
    return None if value == "none" else _address(value, HEALTH_PORT)


def http_address(value: str | Address) -> Address | None:
    """Parse ``HOST:PORT`` or ``none``. The default port is the port for HTTP."""
    return None if value == "none" else _address(value, HTTP_PORT)


def _address(value: str | Address, default_port: int) -> Address:
    if isinstance(value, Address):
        return value
    try:
        return parse_address(value, default_port)
    except InvalidRequestError as error:
        raise typer.BadParameter(str(error)) from None


def one_of(what: str, choices: Sequence[str]) -> Callable[[str], str]:
    """Return a parser that accepts only the ``choices``, in upper or lower case."""

    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise typer.BadParameter(f"invalid {what} {value!r}; expected one of: {', '.join(choices)}")
        return value.lower()

    return parse
