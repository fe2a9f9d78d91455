"""Refuses requests of the native protocol with prepared responses when the server is overloaded.

Requests whose wait and retry time are equal in whole milliseconds get the same response. Only the two ids differ.
"""

from typing import Any, Final

from clockwork.controller.shedding import Shed
from clockwork.host.reception import Reception
from clockwork.messages.requests import InferRequest
from clockwork.net.connection import Connection
from clockwork.units import Nanos
from clockwork.wire.codec import encode
from clockwork.wire.frame import short_frame

MAX_KEPT: Final = 1000
"""Largest number of encoded responses that are kept."""

_NO_IDS: Final = InferRequest(0, "", ())
"""A request whose ids take one byte each: ``id`` is the third byte of the response, and ``request_id`` is the last."""

_ID: Final = 2
"""Position of the field ``id``: after the number of fields and the tag."""


class NativeRefusals:
    """The encoded refusals of one server."""

    def __init__(self, reception: Reception) -> None:
        """Start with no encoded refusals. ``reception`` decides which requests are refused."""
        self._reception = reception
        self._kept: dict[tuple[int, int, Nanos], tuple[bytes, bytes]] = {}

    def refuse(self, connection: Connection, message: Any) -> bool:
        """Refuse the message that is being handled if it is a request that must be refused; see `Callbacks`."""
        reception = self._reception
        if type(message) is not InferRequest or not reception.is_behind():
            return False
        shed = reception.refuses_native(message, connection.arrived_at)
        if shed is None:
            return False
        connection.send_frame(self.frame(shed, message))
        return True

    def frame(self, shed: Shed, request: InferRequest) -> bytes:
        """Return the frame of the response to a request."""
        key = shed.rounded
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            whole = encode(shed.response(_NO_IDS))
            kept = self._kept[key] = whole[:_ID], whole[_ID + 1 : -1]
        return short_frame(b"".join((kept[0], encode(request.id), kept[1], encode(request.request_id))))
