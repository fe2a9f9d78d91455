"""Encodes the parameters of a ``ModelInferResponse``, faster than protobuf's Python messages.

Each time is sent twice: in milliseconds as a double, and in whole microseconds as an integer. KServe's clients read the
integer, because KServe's ``InferParameter`` has no double. The result consists of encoded entries of the map
``parameters``. In protobuf's encoding, such entries can be appended to an encoded message.
"""

from struct import Struct
from typing import Final

from clockwork.grpc_frontend.raw_contents import varint
from clockwork.messages.requests import InferResponse
from clockwork.units import MICROSECOND, MILLISECOND, Nanos

_PARAMETERS: Final = 4 << 3 | 2  #: tag of ModelInferResponse.parameters
_KEY, _VALUE = 1 << 3 | 2, 2 << 3 | 2  #: tags of the two fields in a map entry
_BOOL, _INT64, _DOUBLE = 1 << 3, 2 << 3, 4 << 3 | 1  #: tags of the fields of InferParameter

MAX_VARINT: Final = 10
"""Length of the longest encoded integer, in bytes."""

_double: Final = Struct("<d").pack


def _head(name: str, tag: int, size: int) -> bytes:
    """Return the encoded bytes that precede the value of a parameter. ``size`` is the length of the value."""
    key = name.encode()
    content = bytes((_KEY, len(key))) + key + bytes((_VALUE, 1 + size, tag))
    return bytes((_PARAMETERS, len(content) + size)) + content


class _Time:
    """Encodes a parameter that is a time.

    The bytes that precede the value are stored for each possible length of the value.
    """

    def __init__(self, name: str) -> None:
        self._ms = _head(f"{name}_ms", _DOUBLE, 8)
        self._us = [_head(f"{name}_us", _INT64, size) for size in range(MAX_VARINT + 1)]

    def encode(self, time: Nanos) -> bytes:
        us = varint(max(0, (time + MICROSECOND // 2) // MICROSECOND))
        return self._ms + _double(time / MILLISECOND) + self._us[len(us)] + us


_predicted: Final = _Time("predicted").encode
_queue: Final = _Time("queue").encode
_load: Final = _Time("load").encode
_exec: Final = _Time("exec").encode
_total: Final = _Time("total").encode
_BATCH_SIZE: Final = [_head("batch_size", _INT64, size) for size in range(MAX_VARINT + 1)]
_COLD: Final = (_head("cold_start", _BOOL, 1) + b"\0", _head("cold_start", _BOOL, 1) + b"\1")


def encoded_parameters(response: InferResponse) -> bytes:
    """Return the encoded parameters of a response.

    The result contains the parameters that `clockwork.oip.response.response_parameters` returns, and in addition each
    time as an integer.
    """
    timing = response.timing
    batch_size = varint(max(0, timing.batch_size))
    return b"".join(
        (
            b"" if response.predicted is None else _predicted(max(0, response.predicted)),
            _queue(timing.queue),
            _load(timing.load),
            _exec(timing.exec),
            _total(timing.total),
            _BATCH_SIZE[len(batch_size)],
            batch_size,
            _COLD[timing.cold_start],
        )
    )
