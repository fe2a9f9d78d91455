"""Refuses HTTP requests that the server cannot handle in time, before they cost much processor time.

A request usually takes about 200 us, because it passes the parser, a task and the JSON decoder. Under
overload, the server refuses most requests, and cannot spend this time on each of them. Therefore, `whole_request`
determines without the parser whether the bytes of one read are exactly one request (RFC 9112, section 6). If this is
not certain, the parser reads the request, and the server may refuse the request after its head.
"""

import re
from typing import Final

from msgspec.structs import replace

from clockwork.controller.shedding import Shed
from clockwork.frontend import failure_of_shed
from clockwork.host.reception import Key
from clockwork.http.replies import Reply, error_reply
from clockwork.http.responding import STATUS_LINES
from clockwork.messages.request_ids import ID_HEADER
from clockwork.units import MICROSECOND, MILLISECOND, Bytes, Nanos

MAX_PATHS: Final = 4096
"""Largest number of paths in the table that maps paths to models."""

MAX_PATH: Final[Bytes] = 512
"""Longest path in the table that maps paths to models. There is a limit because clients choose the paths."""

MAX_SEARCHED: Final[Bytes] = 1024
"""Number of bytes at the beginning of a body that are searched for the request's SLO."""

NO_MODEL: Final[Key] = ("", "")
"""The key of requests that are not inference requests."""

MAX_REPLIES: Final = 1000
"""Largest number of encoded replies that are kept."""

_LINE: Final = re.compile(rb"POST (/[!-~]+) HTTP/1\.1\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n")
_DOUBTFUL: Final = re.compile(rb"\r\n(?:transfer-encoding|connection|expect|upgrade|[ \t])")
_SLO: Final = re.compile(rb'"(timeout|slo_ms)"\s*:\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)')
_INFER: Final = re.compile(r"/?v2/models/([^/]+)(?:/versions/([^/]+))?/infer/?")


def posted_path(data: bytes) -> bytes:
    """Return the path if ``data`` begins with a POST request, else an empty string."""
    line = _LINE.match(data)
    return b"" if line is None else line[1]


def whole_request(data: bytes) -> bytes | None:
    """Return the path if ``data`` is certainly exactly one POST request, else None."""
    line = _LINE.match(data)
    end = data.find(b"\r\n\r\n")
    if line is None or end < 0:
        return None
    headers = data[line.end() - 2 : end + 2].lower()
    length = _LENGTH.search(headers)
    if length is None or headers.count(b"\r\ncontent-length") != 1 or _DOUBTFUL.search(headers):
        return None
    if not headers.count(b"\r") == headers.count(b"\n") == headers.count(b"\r\n"):  # a line does not end with CRLF
        return None
    return line[1] if end + 4 + int(length[1]) == len(data) else None


def stated_slo(data: bytes, *, ignore_timeout: bool = False) -> Nanos | None:
    """Return the SLO that the first `MAX_SEARCHED` bytes of a request's JSON contain, or None.

    The search does not parse the JSON. If a single input has a parameter named ``timeout`` or ``slo_ms``, the search
    takes this parameter for the SLO. Under overload, the server may therefore refuse such a request by mistake.
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


def model_of(method: str, path: str) -> Key:
    """Return the model and the version that an inference request names. For requests of other kinds, both are empty."""
    found = _INFER.fullmatch(path) if method == "POST" else None
    return NO_MODEL if found is None else (found[1], found[2] or "")


def remember(paths: dict[bytes, Key], path: bytes, model: Key) -> None:
    """Add a path and its model to the table ``paths``, unless the path is too long.

    A full table loses its oldest path.
    """
    if len(path) > MAX_PATH:
        return
    if len(paths) >= MAX_PATHS:
        del paths[next(iter(paths))]
    paths[path] = model


def shed_reply(shed: Shed) -> Reply:
    """Return the reply to a request that the server refuses because it is overloaded."""
    return error_reply(failure_of_shed(shed))


class ShedReplies:
    """The encoded replies to shed requests.

    Requests whose wait and retry time are equal in whole milliseconds get the same encoded reply.
    Only the header with the request's id differs.
    """

    def __init__(self) -> None:
        """Start with an empty table of replies."""
        self._encoded: dict[tuple[int, int, Nanos], tuple[bytes, bytes]] = {}  #: the bytes before and after the id
        self._date = b""

    def bytes(self, shed: Shed, date: bytes) -> bytes:
        """Return an encoded reply. ``date`` is the header ``Date``, which changes every second."""
        if date is not self._date or len(self._encoded) >= MAX_REPLIES:
            self._encoded.clear()
            self._date = date
        key = shed.rounded
        encoded = self._encoded.get(key)
        if encoded is None:
            reply = error_reply(failure_of_shed(replace(shed, request_id="")))
            (body,) = reply.parts
            lines = [date, *(b"%s: %s\r\n" % header for header in reply.headers)]
            lines.append(b"content-length: %d\r\n%s: " % (len(body), ID_HEADER.encode()))
            encoded = self._encoded[key] = b"".join([STATUS_LINES[reply.status], *lines]), b"\r\n\r\n" + body
        return encoded[0] + shed.request_id.encode() + encoded[1]
