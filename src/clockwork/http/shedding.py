"""Refuses HTTP requests that the server cannot handle in time, as early and as cheaply as possible.

On the usual path a request takes about 200 us, for the parser, uvicorn's cycle, a task and JSON. Under overload most
requests are refused, so a refusal must not take that path. `whole_request` recognises, without the parser, a request
that was read in one piece and whose framing is unambiguous (RFC 9112, section 6). Any other request takes the usual
path, where it may be refused once its head is parsed.
"""

import re
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from clockwork.controller.shedding import Shed
from clockwork.frontend import failure_of_shed
from clockwork.http.asgi import Reply, error_reply
from clockwork.units import MICROSECOND, MILLISECOND, Bytes, Nanos

MAX_PATHS: Final = 4096
"""Limit on the paths whose model is remembered."""

MAX_PATH: Final[Bytes] = 512
"""Length above which a path is not remembered, because clients choose the paths."""

MAX_SEARCHED: Final[Bytes] = 1024
"""Number of bytes at the beginning of a body that are searched for the request's SLO."""

MAX_REPLIES: Final = 1000
"""Limit on the encoded replies that are kept."""

_LINE: Final = re.compile(rb"POST (/[!-~]+) HTTP/1\.1\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n")
_DOUBTFUL: Final = re.compile(rb"\r\n(?:transfer-encoding|connection|expect|upgrade|[ \t])")
_SLO: Final = re.compile(rb'"(timeout|slo_ms)"\s*:\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)')
_INFER: Final = re.compile(r"/?v2/models/([^/]+)(?:/versions/[^/]+)?/infer/?")


def posted_path(data: bytes) -> bytes:
    """Return the path of the POST request that ``data`` begins with; empty if it begins with anything else."""
    line = _LINE.match(data)
    return b"" if line is None else line[1]


def whole_request(data: bytes) -> bytes | None:
    """Return the path if ``data`` is certainly one whole POST request, else None."""
    line = _LINE.match(data)
    end = data.find(b"\r\n\r\n")
    if line is None or end < 0:
        return None
    headers = data[line.end() - 2 : end + 2].lower()
    length = _LENGTH.search(headers)
    if length is None or headers.count(b"\r\ncontent-length") != 1 or _DOUBTFUL.search(headers):
        return None
    if not headers.count(b"\r") == headers.count(b"\n") == headers.count(b"\r\n"):  # some line does not end with CRLF
        return None
    return line[1] if end + 4 + int(length[1]) == len(data) else None


def stated_slo(data: bytes, *, ignore_timeout: bool = False) -> Nanos | None:
    """Return the SLO found near the beginning of a whole request's JSON, or None.

    If an input has a parameter of the same name, its value is taken for the SLO. Under overload such a request may be
    refused too early.
    """
    begin = data.find(b"\r\n\r\n") + 4
    end = begin + MAX_SEARCHED
    if data.find(b'"slo_ms"', begin, end) < 0 and data.find(b'"timeout"', begin, end) < 0:
        return None
    found = [
        round(float(value) * (MICROSECOND if name == b"timeout" else MILLISECOND))
        for name, value in _SLO.findall(data, begin, end)
        if not (ignore_timeout and name == b"timeout")
    ]
    stated = [slo for slo in found if slo > 0]
    return min(stated) if stated else None


def model_of(method: str, path: str) -> str:
    """Return the model of an inference request; empty for any other request."""
    found = _INFER.fullmatch(path) if method == "POST" else None
    return "" if found is None else found[1]


def remember(paths: dict[bytes, str], path: bytes, model: str) -> None:
    """Remember the model of a path, unless the table is full or the path is too long."""
    if len(path) <= MAX_PATH and len(paths) < MAX_PATHS:
        paths[path] = model


def shed_reply(shed: Shed) -> Reply:
    """Return the reply to a request that is refused before anything is done for it."""
    return error_reply(failure_of_shed(shed))


class ShedReplies:
    """Encoded replies to shed requests, one for each wait and retry time in whole milliseconds."""

    def __init__(self) -> None:
        """Start without replies."""
        self._encoded: dict[tuple[int, int], bytes] = {}
        self._common: object = None

    def bytes(self, shed: Shed, common: list[tuple[bytes, bytes]]) -> bytes:
        """Return the whole reply; ``common`` are the headers of every reply, which change each second (``Date``)."""
        if common is not self._common or len(self._encoded) >= MAX_REPLIES:
            self._encoded.clear()
            self._common = common
        key = (-1 if shed.wait is None else shed.wait // MILLISECOND, shed.retry_after // MILLISECOND)
        encoded = self._encoded.get(key)
        if encoded is None:
            reply = shed_reply(shed)
            (body,) = reply.parts
            lines = [b"%s: %s\r\n" % header for header in (*common, *reply.headers)]
            encoded = b"".join([STATUS_LINE[reply.status], *lines, b"content-length: %d\r\n\r\n" % len(body), body])
            self._encoded[key] = encoded
        return encoded
