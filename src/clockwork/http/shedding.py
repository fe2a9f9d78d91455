"""Refuses HTTP requests that the server cannot handle in time, as early and as cheaply as possible.

A request that goes the usual way costs some 200 us: the parser, uvicorn's cycle, a task, JSON. Under overload most
requests are refused, so that way must not be theirs. `whole_request` recognises, without the parser, a request that
was read in one piece and whose framing leaves no doubt (RFC 9112, section 6): anything else takes the usual way, where
it may be refused as well, after its head was parsed.
"""

import re
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from clockwork.controller.shedding import Shed
from clockwork.http.asgi import Reply, refusal
from clockwork.messages.status import Status
from clockwork.oip.contract import failure
from clockwork.oip.rest import RestError
from clockwork.units import MICROSECOND, MILLISECOND, Bytes, Nanos

MAX_PATHS: Final = 4096
"""Paths whose model is remembered."""

MAX_PATH: Final[Bytes] = 512
"""Longer paths are not remembered: clients choose them."""

MAX_LOOKED_AT: Final[Bytes] = 1024
"""Bytes of a body in which a stated SLO is looked for."""

MAX_REPLIES: Final = 1000
"""Answers that are kept."""

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
    """Return the path of the one POST request that ``data`` is, or None where there is any doubt about that."""
    line = _LINE.match(data)
    end = data.find(b"\r\n\r\n")
    if line is None or end < 0:
        return None
    headers = data[line.end() - 2 : end + 2].lower()
    length = _LENGTH.search(headers)
    if length is None or headers.count(b"\r\ncontent-length") != 1 or _DOUBTFUL.search(headers):
        return None
    if not headers.count(b"\r") == headers.count(b"\n") == headers.count(b"\r\n"):  # a line ends in another way
        return None
    return line[1] if end + 4 + int(length[1]) == len(data) else None


def stated_slo(data: bytes) -> Nanos | None:
    """Return the SLO that a whole request states, as far as the beginning of its JSON tells; None: not found there.

    A parameter of an input with such a name would be taken for it. Its client is refused sooner then, under overload.
    """
    begin = data.find(b"\r\n\r\n") + 4
    end = begin + MAX_LOOKED_AT
    if data.find(b'"slo_ms"', begin, end) < 0 and data.find(b'"timeout"', begin, end) < 0:
        return None
    found = [
        round(float(value) * (MICROSECOND if name == b"timeout" else MILLISECOND))
        for name, value in _SLO.findall(data, begin, end)
    ]
    stated = [slo for slo in found if slo > 0]
    return min(stated) if stated else None


def model_of(method: str, path: str) -> str:
    """Return the model that an inference is requested of; empty for any other request."""
    found = _INFER.fullmatch(path) if method == "POST" else None
    return "" if found is None else found[1]


def remember(paths: dict[bytes, str], path: bytes, model: str) -> None:
    """Note which model a path is of, for `whole_request`, unless the table is full or the path is long."""
    if len(path) <= MAX_PATH and len(paths) < MAX_PATHS:
        paths[path] = model


def shed_reply(shed: Shed) -> Reply:
    """The answer to a request that is refused before anything is done for it."""
    status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
    return refusal(RestError(failure(status, shed.message, retry_after=shed.retry_after)))


class ShedReplies:
    """Answers to shed requests as bytes, made once for each wait and retry time in whole milliseconds."""

    def __init__(self) -> None:
        """Start with none."""
        self._made: dict[tuple[int, int], bytes] = {}
        self._common: object = None

    def bytes(self, shed: Shed, common: list[tuple[bytes, bytes]]) -> bytes:
        """Return the whole answer; ``common``: headers of every answer, which change each second (``Date``)."""
        if common is not self._common or len(self._made) >= MAX_REPLIES:
            self._made.clear()
            self._common = common
        key = (-1 if shed.wait is None else shed.wait // MILLISECOND, shed.retry_after // MILLISECOND)
        made = self._made.get(key)
        if made is None:
            reply = shed_reply(shed)
            (body,) = reply.parts
            lines = [b"%s: %s\r\n" % header for header in (*common, *reply.headers)]
            made = b"".join([STATUS_LINE[reply.status], *lines, b"content-length: %d\r\n\r\n" % len(body), body])
            self._made[key] = made
        return made
