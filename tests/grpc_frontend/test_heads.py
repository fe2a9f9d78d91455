"""The heads of gRPC calls, from the fields of HTTP/2."""

import pytest

from clockwork.grpc_frontend.heads import MAX_TIMEOUT, Head, head_of
from clockwork.http2.hpack import Block, Field
from clockwork.units import MICROSECOND, MILLISECOND, SECOND, ms

LIMIT = 8192
BEGIN: tuple[Field, ...] = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"here"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)


def head(*more: Field, begin: tuple[Field, ...] = BEGIN) -> Head:
    found = head_of(Block((*begin, *more), 100), LIMIT)
    assert found is not None
    return found


def without(name: bytes, *instead: Field) -> tuple[Field, ...]:
    return tuple(field for field in BEGIN if field[0] != name) + instead


def test_a_usual_head() -> None:
    found = head((b"grpc-timeout", b"100m"), (b"user-agent", b"grpc-go/1.60"), (b"authorization", b"Bearer x"))
    assert (found.path, found.http_status, found.timeout, found.encoding) == ("/a.B/C", 200, ms(100), "identity")
    assert found.metadata == (("user-agent", "grpc-go/1.60"), ("authorization", "Bearer x"))
    assert found.failure is None


@pytest.mark.parametrize(
    ("text", "timeout"),
    [
        (b"1H", 3600 * SECOND),
        (b"2M", 120 * SECOND),
        (b"3S", 3 * SECOND),
        (b"4m", 4 * MILLISECOND),
        (b"5u", 5 * MICROSECOND),
        (b"99999999n", 99_999_999),
        (b"0n", 1),
        (b"99999999H", MAX_TIMEOUT),
    ],
)
def test_timeouts(text: bytes, timeout: int) -> None:
    assert head((b"grpc-timeout", text)).timeout == timeout


@pytest.mark.parametrize("text", [b"", b"1", b"m", b"-1m", b"1.5S", b"123456789m", b"1s", b"1 m", "\u0661m".encode()])
def test_a_wrong_timeout_fails_the_call(text: bytes) -> None:
    failure = head((b"grpc-timeout", text)).failure
    assert failure is not None
    assert failure.grpc == "INVALID_ARGUMENT"


def test_binary_metadata_is_decoded() -> None:
    found = head((b"a-bin", b"AP8"), (b"b-bin", b"AP8=,Zm9v"), (b"c-bin", b""))
    assert found.metadata == (("a-bin", b"\0\xff"), ("b-bin", b"\0\xff"), ("b-bin", b"foo"), ("c-bin", b""))
    failure = head((b"a-bin", b"*")).failure
    assert failure is not None
    assert failure.message == "a value of binary metadata is not Base64"


def test_white_space_around_a_value_is_removed() -> None:
    found = head((b"x", b" \ta b "), (b"grpc-timeout", b" 5S"))
    assert (found.metadata, found.timeout) == ((("x", "a b"),), 5 * SECOND)


def test_metadata_that_is_not_text_is_replaced() -> None:
    assert head((b"x", b"a\xffb")).metadata == (("x", "a\ufffdb"),)


@pytest.mark.parametrize(
    "begin",
    [
        (),
        without(b":path"),
        without(b":path", (b":path", b"")),
        without(b":method"),
        without(b":scheme"),
        (*BEGIN, (b":path", b"/late")),
        ((b":path", b"/twice"), *BEGIN),
        ((b":unknown", b"x"), *BEGIN),
        ((b":status", b"200"), *BEGIN),
        (*BEGIN, (b"Upper", b"x")),
        (*BEGIN, (b"", b"x")),
        (*BEGIN, (b"connection", b"close")),
        without(b"te", (b"te", b"gzip")),
        (*BEGIN, (b"transfer-encoding", b"chunked")),
        (*BEGIN, (b"a b", b"x")),
        (*BEGIN, (b"a:b", b"x")),
        (*BEGIN, (b"a\n", b"x")),
        (*BEGIN, (b"\xe9", b"x")),
        (*BEGIN, (b"x", b"a\nb")),
        (*BEGIN, (b"x", b"a\r")),
        (*BEGIN, (b"x", b"\0")),
        without(b":path", (b":path", b"/a\r\nb")),
    ],
)
def test_a_malformed_request_is_no_call(begin: tuple[Field, ...]) -> None:
    assert head_of(Block(begin, 100), LIMIT) is None


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"application/grpc", 200),
        (b"application/grpc+proto", 200),
        (b"application/grpc;charset=x", 200),
        (b"application/grpcfoo", 415),
        (b"application/grpc-web", 415),
        (b"application/json", 415),
        (b"", 415),
    ],
)
def test_requests_that_are_no_grpc_are_refused_by_http(content_type: bytes, status: int) -> None:
    assert head(begin=without(b"content-type", (b"content-type", content_type))).http_status == status


def test_other_methods_of_http_are_refused() -> None:
    assert head(begin=((b":method", b"GET"), *(field for field in BEGIN if field[0] != b":method"))).http_status == 405


def test_an_unknown_compression_is_unimplemented() -> None:
    assert head((b"grpc-encoding", b"gzip")).failure is None
    failure = head((b"grpc-encoding", b"snappy")).failure
    assert failure is not None
    assert (failure.grpc, "use identity, gzip or deflate" in failure.message) == ("UNIMPLEMENTED", True)


def test_metadata_above_the_limit_fails_the_call() -> None:
    found = head_of(Block(None, 9000), LIMIT)
    assert found is not None
    failure = found.failure
    assert failure is not None
    assert failure.grpc == "RESOURCE_EXHAUSTED"
    assert "metadata is 9000 bytes; the limit is 8192" in failure.message
