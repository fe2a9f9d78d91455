"""Divides the bytes of one HTTP/1.1 connection into requests, with the parser llhttp.

Long bodies bypass llhttp (`clockwork.http.receiving`).
"""

from typing import Any, Final, Protocol
from urllib.parse import unquote

import httptools

from clockwork.frontend.body_quota import BodyQuota
from clockwork.http.config import HttpConfig
from clockwork.http.exchange import Exchange, Link
from clockwork.http.heads import BadRequestError, check_head
from clockwork.http.presence import ClientGoneError
from clockwork.http.receiving import MIN_LARGE, LargeBody
from clockwork.http.responding import keeps_alive
from clockwork.units import Bytes, Nanos
from clockwork.wire.frame import Allocate, uninitialised

BAD_BYTES: Final = "the bytes are not an HTTP/1.1 request"
BAD_BODY: Final = "the chunks of the body are malformed (RFC 9112, section 7.1)"

LARGE_HEAD: Final = "the head of the request exceeds the limit of {limit} bytes (raise it with --max-head)"
"""Error message for a head that is too large."""

MAX_DIGITS: Final = 18
"""Number of digits above which a length exceeds every limit."""

LARGE_FRAMING: Final = (
    "the extensions of chunks or the trailers exceed the limit of {limit} bytes (raise it with --max-head)"
)
"""Error message for a body that has too many bytes besides its content."""

_FAULTS: Final = (BadRequestError, httptools.HttpParserInvalidURLError, UnicodeError)
"""Exceptions in a callback of llhttp that mean that the request is wrong. All others are bugs."""


class Receiver(Link, Protocol):
    """The connection that gets the requests. `clockwork.http.connection.HttpConnection` implements this interface."""

    def opened(self, exchange: Exchange) -> None:
        """Begin a request, whose head has arrived."""
        ...

    def body_ended(self) -> None:
        """Note that the body of the newest request has arrived."""
        ...

    def ignore_rest(self) -> None:
        """Ignore all further bytes, and close the connection after the reply to the newest request."""
        ...


class Parser:
    """The parser of one connection. The methods whose names begin with ``on_`` are called by llhttp."""

    def __init__(self, connection: Receiver, limits: HttpConfig, quota: BodyQuota, allocate: Allocate) -> None:
        """Begin before the first request.

        Args:
            connection: gets the requests.
            limits: limits of heads and bodies.
            quota: counts the bytes of long bodies that are being received.
            allocate: returns memory that is shared with the worker.
        """
        self.exchange: Exchange | None = None  #: the newest request whose head has arrived
        self.large: LargeBody | None = None  #: the body that is being received without llhttp
        self.is_in_head = False  #: whether the head of a request has begun and is incomplete
        self.is_in_body = False  #: whether the head of a request is complete and its body is not
        self._connection = connection
        self._limits = limits
        self._quota = quota
        self._allocate = allocate
        self._llhttp: Any = None
        self._read_arrived: Nanos = 0  #: when the bytes of this read may have arrived
        self._arrived: Nanos = 0  #: when the first byte of the newest head may have arrived
        self._head_bytes: Bytes = 0  #: number of bytes that certainly belong to the incomplete head
        self._uncounted: Bytes = 0  #: number of further bytes that may belong to the incomplete head
        self._framing_bytes: Bytes = 0  #: number of bytes of the body since the last byte of its content
        self._has_body = False  #: whether this read has content of a body
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._host: bytes | None = None  #: the last valid value of the header Host
        self._has_new_head = False  #: whether this read has completed a head
        self._head_may_be_large = False  #: whether this read may contain the end of a head that exceeds the limit
        self._announced: Bytes = 0  #: length of the long body that the head has announced
        self._after_upgrade: Bytes | None = 0  #: length of a body that llhttp takes for a different protocol
        self._renew()

    @property
    def is_between(self) -> bool:
        """Whether the parser is between two messages."""
        return not (self.is_in_head or self.is_in_body)

    def feed(self, data: bytes, arrived: Nanos) -> None:
        """Parse bytes. ``arrived`` is the earliest time at which they may have arrived.

        Raises:
            BadRequestError: the bytes are not a valid request.
        """
        self._read_arrived = arrived
        self._head_may_be_large = self._head_bytes + self._uncounted + len(data) > self._limits.max_head
        is_one_head = not self.is_in_body
        self._has_new_head = self._has_body = False
        rest = data
        while rest:
            rest = self._parse(rest)
        if self._announced:
            self._receive_large()
        is_one_head = is_one_head and not self._has_new_head
        if self.is_in_body:
            self._check_framing(len(data))
        elif is_one_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.max_head:
                raise self._large_head()
        elif self.is_in_head:
            self._uncounted = len(data)  # the head has begun somewhere in these bytes

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes, and return those of them that must be parsed by a new parser of llhttp."""
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            begin = upgrade.args[0]
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, BadRequestError):
                raise cause from None
            if cause is not None and not isinstance(cause, _FAULTS):
                raise cause from None
            raise BadRequestError(BAD_BYTES) from None
        except httptools.HttpParserError:
            raise BadRequestError(BAD_BODY if self.is_in_body else BAD_BYTES) from None
        else:
            return b""
        # not in the handler above: an exception that is raised there would get the wrong `__context__`
        return self._pass_over_upgrade(data[begin:])

    def _check_framing(self, nbytes: Bytes) -> None:
        """Limit the bytes in a row that are extensions of chunks or trailers. llhttp keeps an incomplete trailer."""
        if not (self._has_new_head or self._has_body):
            self._framing_bytes += nbytes
            if self._framing_bytes > self._limits.max_head:
                raise BadRequestError(LARGE_FRAMING.format(limit=self._limits.max_head), 431)

    def large_received(self, nbytes: Bytes) -> None:
        """Count bytes that were received into the memory of `large`."""
        assert self.large is not None
        assert self.exchange is not None
        if self.large.received(nbytes):
            self.large = None
            self._renew()  # the old parser still waits for the bytes of this body
            self._end_message(self.exchange)

    def close(self) -> None:
        """Give up an incomplete long body, because the connection has ended."""
        if self.large is not None:
            self.large.end(ClientGoneError())
        self.exchange = None
        self._llhttp = None  # it refers to this object
        del self._connection  # it refers to this object, too, and the memory of its bodies must be freed at once

    # --- callbacks of llhttp -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a head, whose first byte was read."""
        self.is_in_head = True
        self._arrived = self._read_arrived
        self._url, self._headers, self._expects_continue = b"", [], False

    def on_url(self, url: bytes) -> None:
        """Add a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. A trailer is ignored, because it must not replace a header (RFC 9110, section 6.5.1)."""
        if not self.is_in_head:
            return
        name = name.lower()
        if name == b"expect" and value.strip(b" \t").lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, and begin the request."""
        headers, parser = self._headers, self._llhttp
        if self._head_may_be_large and self._length_of_head() > self._limits.max_head:
            raise self._large_head()
        version = parser.get_http_version()
        self._host = check_head(headers, version, self._host)
        target = httptools.parse_url(self._url)
        raw_path: bytes = target.path or b""
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        exchange = self.exchange = Exchange(
            self._connection,
            parser.get_method().decode("ascii"),
            raw_path,
            path,
            target.query or b"",
            version,
            headers,
            self._arrived,
        )
        exchange.keep_alive = keeps_alive(headers) if version == "1.0" else parser.should_keep_alive()
        exchange.expects_continue = self._expects_continue and version != "1.0"
        self.is_in_head, self.is_in_body, self._has_new_head = False, True, True
        self._head_bytes = self._uncounted = self._framing_bytes = 0
        self._announced = self._large_length()
        exchange.is_large = self._announced > 0
        if parser.should_upgrade():
            chunked = any(name == b"transfer-encoding" for name, _ in headers)
            self._after_upgrade = None if chunked else self._content_length()
        self._connection.opened(exchange)

    def on_body(self, body: bytes) -> None:
        """Add bytes of a body."""
        assert self.exchange is not None
        self._framing_bytes, self._has_body = 0, True
        self.exchange.add(body)
        if self.exchange.waiting >= self._limits.piece:
            self._connection.set_reading()
            self.exchange.wake()

    def on_message_complete(self) -> None:
        """End a request, whose last byte was read."""
        if self._after_upgrade == 0:
            self._announced = 0
            assert self.exchange is not None
            self._end_message(self.exchange)

    # --- bodies ------------------------------------------------------------------------------------------------------

    def _end_message(self, exchange: Exchange) -> None:
        self.is_in_body = False
        exchange.end_body()
        self._connection.body_ended()

    def _pass_over_upgrade(self, rest: bytes) -> bytes:
        """Ignore a client's offer to change the protocol (RFC 9110, section 7.8), and receive the request's body.

        llhttp treats all bytes after the head as bytes of the offered protocol. These bytes must not be parsed as
        requests, because a body could contain forged requests. Return the bytes after the body.
        """
        self._renew()
        exchange = self.exchange
        assert exchange is not None
        length, self._after_upgrade = self._after_upgrade, 0
        self._announced = 0
        if length is None or length > self._limits.max_body:
            self._connection.ignore_rest()
            self._end_message(exchange)
            return b""
        if length:
            self.large = exchange.large = self._large_body(exchange, length, rest[:length])
            if len(rest) >= length:
                self.large_received(0)
        return rest[length:]

    def _receive_large(self) -> None:
        """Receive the rest of a body without llhttp, which has read the beginning of the body."""
        length, self._announced = self._announced, 0
        exchange = self.exchange
        assert exchange is not None
        if not self._connection.is_closing():
            self.large = exchange.large = self._large_body(exchange, length, exchange.take())

    def _large_body(self, exchange: Exchange, length: Bytes, begin: Any) -> LargeBody:
        """Return a `LargeBody` with memory for a body.

        The memory is shared with the worker if the worker can use the tensors in the body unchanged.
        """
        if exchange.is_replied:  # the request was refused before its body was received
            return LargeBody(length, bytes(exchange.unwanted + len(begin)), self._quota, None)
        before = self._number(b"inference-header-content-length")
        unchanged = before and not any(name == b"content-encoding" for name, _ in self._headers)
        return LargeBody(length, begin, self._quota, self._allocate if unchanged else uninitialised, before)

    def _large_length(self) -> Bytes:
        """Return the length of the announced body if it bypasses llhttp, else 0."""
        length = 0 if self._expects_continue else self._content_length()
        return length if MIN_LARGE <= length <= self._limits.max_body else 0

    def _content_length(self) -> Bytes:
        """Return the length that the header Content-Length announces, or 0 if the request does not have this header.

        llhttp has checked the value, and accepts leading zeros and trailing white space.
        """
        value = next((value for name, value in self._headers if name == b"content-length"), b"")
        digits = value.rstrip(b" \t").lstrip(b"0")
        return self._limits.max_body + 1 if len(digits) > MAX_DIGITS else int(digits or b"0")

    def _number(self, header: bytes) -> Bytes:
        """Return the number in a header, or 0 if the request does not have this header.

        The result is also 0 if the value is not a number. The application refuses a request with such a value later.
        """
        value = next((value for name, value in self._headers if name == header), b"")
        return int(value) if value.isdigit() and len(value) <= MAX_DIGITS else 0

    # --- heads -------------------------------------------------------------------------------------------------------

    def _length_of_head(self) -> Bytes:
        return len(self._url) + sum(len(name) + len(value) for name, value in self._headers)

    def _large_head(self) -> BadRequestError:
        return BadRequestError(LARGE_HEAD.format(limit=self._limits.max_head), 431)

    def _renew(self) -> None:
        self._llhttp = httptools.HttpRequestParser(self)
        self._llhttp.set_dangerous_leniencies(lenient_data_after_close=True)
