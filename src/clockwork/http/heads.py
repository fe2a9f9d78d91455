"""Checks those rules of RFC 9112 about the heads of HTTP requests that the parser does not check."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

_HOST: Final = re.compile(rb"(?:\[[0-9A-Za-z:.%]*\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
"""Pattern of the header Host: ``uri-host [":" port]`` (RFC 9110, section 7.2). The value may be empty."""

HeaderList: TypeAlias = Sequence[tuple[bytes, bytes]]
"""The headers of a request in their order, with names in lower case."""

Headers: TypeAlias = Mapping[bytes, bytes]
"""The headers of a request by their names in lower case. If a name occurs several times, the last value is kept."""


class BadRequestError(Exception):
    """The bytes of a request break a rule of HTTP, or exceed a limit. The exception's text names the rule."""

    def __init__(self, text: str, http: int = 400) -> None:
        """Describe the fault. ``http`` is the status of the reply."""
        super().__init__(text)
        self.http = http


def check_head(headers: HeaderList, version: str, checked_host: bytes | None) -> bytes | None:
    """Check the headers Host and Transfer-Encoding, and return the value of Host.

    Args:
        headers: names in lower case, and values.
        version: version of HTTP, such as "1.1".
        checked_host: a value of Host that is known to be valid. To save time, this value is not checked again.

    Raises:
        BadRequestError: the head breaks a rule of RFC 9112, section 3.2 or 6.1.
    """
    host: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise BadRequestError("the request has more than one header Host; send one")
            host = value
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise BadRequestError("the header Transfer-Encoding has a value other than chunked; use Content-Encoding")
    if host is None:
        if version == "1.1":
            raise BadRequestError("the request has no header Host, which HTTP/1.1 requires")
    elif host != checked_host and _HOST.fullmatch(host.strip()) is None:
        raise BadRequestError("the header Host is not a host with an optional port")
    return host
