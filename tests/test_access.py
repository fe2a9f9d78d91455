"""Tokens and the rights that they give."""

import pytest

from clockwork.access import MAX_TOKEN_CHARACTERS, Access, Right, Tokens, needed_for
from clockwork.errors import InvalidRequestError, NotPermittedError
from clockwork.messages.link import Hello
from clockwork.messages.requests import (
    CancelRequest,
    EvictRequest,
    InferRequest,
    ListModelsRequest,
    LoadModelRequest,
    StatusRequest,
)
from clockwork.messages.status import Status
from clockwork.wire.codec import decode_request, encode

READER, ADMIN = "a-token-for-inference", "a-token-for-everything"
BOTH = Access(Tokens([READER]), Tokens([ADMIN]))


def test_without_tokens_every_request_is_permitted() -> None:
    assert Access().right_of("") is Right.ADMIN
    Access().check("", Right.ADMIN)


@pytest.mark.parametrize(
    ("authorization", "needed", "status"),
    [
        ("", Right.NONE, None),
        ("Bearer wrong-wrong-wrong", Right.NONE, None),
        ("", Right.INFER, Status.NOT_AUTHENTICATED),
        ("Bearer wrong-wrong-wrong", Right.INFER, Status.NOT_AUTHENTICATED),
        ("Bearer", Right.INFER, Status.NOT_AUTHENTICATED),
        (f"Basic {READER}", Right.INFER, Status.NOT_AUTHENTICATED),
        (READER, Right.INFER, Status.NOT_AUTHENTICATED),
        (f"Bearer {READER[:-1]}", Right.INFER, Status.NOT_AUTHENTICATED),
        ("Bearer " + "x" * (MAX_TOKEN_CHARACTERS + 1), Right.INFER, Status.NOT_AUTHENTICATED),
        ("Bearer \xff\ud800 and so on, and on", Right.INFER, Status.NOT_AUTHENTICATED),
        (f"Bearer {READER}", Right.INFER, None),
        (f"bearer  {READER} ", Right.INFER, None),
        (f"Bearer {READER}", Right.ADMIN, Status.NOT_PERMITTED),
        (f"Bearer {ADMIN}", Right.INFER, None),
        (f"Bearer {ADMIN}", Right.ADMIN, None),
    ],
)
def test_a_header_gives_the_right_of_its_token(authorization: str, needed: Right, status: Status | None) -> None:
    if status is None:
        BOTH.check(authorization, needed)
        return
    with pytest.raises(NotPermittedError) as caught:
        BOTH.check(authorization, needed)
    assert caught.value.status == status
    assert authorization.removeprefix("Bearer ")[:10] not in str(caught.value) or not authorization.strip("Bear ")


def test_with_one_kind_of_token_the_other_right_is_not_free() -> None:
    with pytest.raises(NotPermittedError):
        Access(Tokens([READER])).check(f"Bearer {READER}", Right.ADMIN)
    with pytest.raises(NotPermittedError):
        Access(None, Tokens([ADMIN])).check("", Right.INFER)


def test_requests_that_change_the_server_need_the_admin_right() -> None:
    admin = [LoadModelRequest(1, "m"), EvictRequest(1, "m")]
    others = [InferRequest(1, "m", ()), CancelRequest(1), ListModelsRequest(1), StatusRequest(1)]
    assert {needed_for(request) for request in admin} == {Right.ADMIN}
    assert {needed_for(request) for request in others} == {Right.INFER}


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "x" * 5000, "with a space in it", "täglich-ein-anderes"])
def test_an_invalid_token_is_reported_without_repeating_it(token: str) -> None:
    with pytest.raises(InvalidRequestError, match="token 2 has") as caught:
        Tokens([READER, token])
    assert not token or token not in str(caught.value)


def test_the_token_of_a_greeting_is_not_shown() -> None:
    hello = Hello("client", "c0", "test", READER)
    assert READER not in repr(hello)
    assert decode_request(encode(hello)) == hello


def test_a_greeting_of_older_software_has_no_token() -> None:
    assert decode_request(encode([1000, "client", "c0", "old"])) == Hello("client", "c0", "old", "")
