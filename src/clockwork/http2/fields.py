"""Checks the names and values of headers (RFC 9113, section 8.2)."""

import re
from typing import Final

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
_VALUE: Final = re.compile(rb"[^\0\r\n]*").fullmatch

CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""The headers that only HTTP/1.1 has."""


def is_valid(name: bytes, value: bytes) -> bool:
    """Return whether HTTP/2 allows a header. Names are tokens in lower case, so pseudo-headers are not allowed.

    White space around a value is allowed, because the protocol of gRPC tolerates it.
    """
    if name == b"te" and value != b"trailers":
        return False
    return _NAME(name) is not None and name not in CONNECTION_FIELDS and is_value(value)


def is_value(value: bytes) -> bool:
    """Return whether a text contains none of the bytes that end a header in HTTP/1.1."""
    return _VALUE(value) is not None
