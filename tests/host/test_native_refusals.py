"""The encoded refusals of the native protocol."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from clockwork.controller.shedding import Shed
from clockwork.host import native_refusals
from clockwork.host.native_refusals import MAX_KEPT, NativeRefusals
from clockwork.host.reception import Reception
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.units import MILLISECOND, ms
from clockwork.wire.codec import decode_response, encode
from clockwork.wire.frame import encode_frame

SHEDS = (Shed(ms(30), ms(31)), Shed(None, ms(5)), Shed(None, None, ms(50)))


def request(number: int = 7, request_id: str = "abc-1") -> InferRequest:
    return InferRequest(number, "m", (), ms(100), request_id=request_id)


def response(refusals: NativeRefusals, shed: Shed, to: InferRequest) -> InferResponse:
    decoded: Any = decode_response(refusals.frame(shed, to)[8:])
    assert isinstance(decoded, InferResponse)
    return decoded


@pytest.mark.parametrize("shed", SHEDS)
@pytest.mark.parametrize("number", [0, 127, 128, 255, 256, 1 << 16, 1 << 32, (1 << 64) - 1, -1, -200, -(1 << 63)])
@pytest.mark.parametrize("request_id", ["", "a", "x" * 31, "x" * 32, "\N{SNOWMAN}" * 128])
def test_a_refusal_has_the_same_bytes_as_the_encoded_response(shed: Shed, number: int, request_id: str) -> None:
    refusals = NativeRefusals(cast(Reception, None))
    to = request(number, request_id)
    for _ in range(2):
        assert [refusals.frame(shed, to)] == encode_frame(encode(shed.response(to)))


def test_only_the_ids_of_refusals_with_the_same_wait_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Any] = []
    encode_message: Callable[[Any], bytes] = encode

    def counting(message: Any) -> bytes:
        encoded.append(message)
        return encode_message(message)

    monkeypatch.setattr(native_refusals, "encode", counting)
    refusals = NativeRefusals(cast(Reception, None))
    for number in range(100):
        found = response(refusals, Shed(ms(30) + number, ms(31) + number), request(number, f"id-{number}"))
        assert (found.id, found.request_id, found.retry_after) == (number, f"id-{number}", ms(31))
    assert sum(isinstance(message, InferResponse) for message in encoded) == 1


def test_refusals_differ_by_their_times_and_few_are_kept() -> None:
    refusals = NativeRefusals(cast(Reception, None))
    for number in range(2 * MAX_KEPT):
        wait = number * MILLISECOND
        assert response(refusals, Shed(wait, ms(1)), request()).message == Shed(wait, ms(1)).message
        assert len(refusals._kept) <= MAX_KEPT
    assert response(refusals, SHEDS[2], request()).message != response(refusals, SHEDS[1], request()).message
