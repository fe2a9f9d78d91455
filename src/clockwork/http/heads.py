"""Checks those rules of RFC 9112 about the heads of HTTP requests that the parser does not check."""

import re
from collections.abc import Sequence
from typing import Final

_HOST: Final = re.compile(rb"(?:\[[0-9A-Za-z:.%]*\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
"""Pattern of the header Host: ``uri-host [":" port]`` (RFC 9110, section 7.2). The value may be empty."""

Head = Sequence[tuple[bytes, bytes]]


class BadHeadError(Exception):
    """The head of a request breaks a rule of HTTP. The exception's text names the rule."""


class LargeHeadError(Exception):
    """The head of a request exceeds the limit. The exception's text names the limit."""


def check_head(headers: Head, version: str, checked_host: bytes | None) -> bytes | None:
    """Check the headers Host and Transfer-Encoding, and return the value of Host.

    Args:
        headers: names in lower case, and values.
        version: version of HTTP, such as "1.1".
        checked_host: a value of Host that is known to be valid. To save time, this value is not checked again.

    Raises:
        BadHeadError: the head breaks a rule of RFC 9112, section 3.2 or 6.1.
    """
    host: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise BadHeadError("the request has more than one header Host; send one")
            host = value
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise BadHeadError("the header Transfer-Encoding has a value other than chunked; use Content-Encoding")
    if host is None:
        if version == "1.1":
            raise BadHeadError("the request has no header Host, which HTTP/1.1 requires")
    elif host != checked_host and _HOST.fullmatch(host.strip()) is None:
        raise BadHeadError("the header Host is not a host with an optional port")
    return host
