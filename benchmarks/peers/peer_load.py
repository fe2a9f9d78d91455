"""The load on both servers: connections that note cold starts, and the requests that a server must load a model for.

A model is cold for a request if the server had not loaded the model when the request arrived. Clockwork states this in
the parameters of a response, and `ray_app.py` in the first bytes.
"""

from collections import OrderedDict
from typing import Any

from load_http import HttpLink, HttpWire
from load_ledger import Ledger

from clockwork.units import SECOND

COLD = b'"cold_start":true'
MAX_MARK = 1024
"""Number of bytes of a response in which `COLD` is searched."""


class PeerLink(HttpLink):
    """A connection that notes cold starts."""

    def __init__(self, wire: "PeerWire") -> None:
        super().__init__(wire)
        self._cold = wire.cold

    def _answer(self, seq: int, status: int, body: bytes, now: int) -> None:
        if status == 200 and seq >= 0 and COLD in body[:MAX_MARK]:
            self._cold[seq] = 1
        super()._answer(seq, status, body, now)


class PeerWire(HttpWire):
    """A load over the Open Inference Protocol. ``cold`` contains 1 for each success that was a cold start."""

    def __init__(self, address: str, ledger: Ledger) -> None:
        super().__init__(address, ledger)
        self.cold = bytearray(ledger.size)

    def _opened(self) -> HttpLink:
        link = PeerLink(self)
        self.add(link)
        return link


class RayWire(PeerWire):
    """A load on `ray_app.py`. The body of a request is the tensor, and the SLO is Ray's time limit of the request."""

    @staticmethod
    def _head(address: str, template: Any) -> tuple[bytes, bytes]:
        head = (
            f"POST / HTTP/1.1\r\nHost: {address}\r\nserve_multiplexed_model_id: {template.model}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {template.array.nbytes}\r\n"
            "x-request-timeout-seconds: "
        )
        return head.encode(), b"\r\n\r\n"

    @staticmethod
    def _slo(nanos: int) -> bytes:
        return b"%.4f" % (nanos / SECOND)


def outside(kinds: bytes, keep: int) -> list[bool]:
    """Return, for each request, whether its model is not among the ``keep`` models that were requested last.

    A server that keeps the ``keep`` models that were used last has to load a model for exactly these requests.
    ``kinds`` contains the model of each request.
    """
    recent: OrderedDict[int, None] = OrderedDict()
    found = []
    for kind in kinds:
        found.append(kind not in recent)
        recent[kind] = None
        recent.move_to_end(kind)
        if len(recent) > keep:
            recent.popitem(last=False)
    return found
