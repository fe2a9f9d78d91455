"""Handles the calls of one gRPC connection: refuses them, or starts tasks that serve them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from clockwork.access import Access
from clockwork.errors import InvalidRequestError, NotPermittedError
from clockwork.frontend import FrontEnd, failure_of_error
from clockwork.frontend.body_quota import BodyQuota
from clockwork.frontend.unpacking import UnpackedBytes, unpack
from clockwork.grpc_frontend.access import authorization, check_access
from clockwork.grpc_frontend.calls import Call, Caller
from clockwork.grpc_frontend.heads import Head, head_of
from clockwork.grpc_frontend.incoming import PREFIX, Incoming, Message, TooLongError, one_message
from clockwork.grpc_frontend.limits import (
    MAX_CALLS,
    MAX_METADATA_BYTES,
    MAX_RECEIVED,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    MAX_UNPACKED,
    MAX_WAITING,
    UPLOAD_TIME,
)
from clockwork.grpc_frontend.methods import Method, Methods
from clockwork.grpc_frontend.raw_contents import MIN_SPLIT_BYTES, model_and_version
from clockwork.grpc_frontend.replies import (
    HEAD,
    HEAD_ONLY,
    OK,
    ShedReplies,
    failure_block,
    http_block,
)
from clockwork.http2.connection import Connection
from clockwork.http2.hpack import Block
from clockwork.http2.streams import STREAM_WINDOW, Stream
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure, RequestFailedError
from clockwork.units import SECOND, Bytes, Nanos, show_bytes
from clockwork.wire.frame import Allocate

log = logging.getLogger("clockwork.grpc")

_REFUSED: Final = Method()
"""The method of calls that wait for their refusal."""

REFUSAL_DELAY: Final = 0.1
"""Time in seconds after which a call is refused whose client sends no message.

If the refusal reached gRPC's client for Python before it sends the first message of a stream, the client would report
an internal error.
"""


class Serving:
    """What all connections of one server share."""

    def __init__(self, methods: Methods, front: FrontEnd, access: Access, allocate: Allocate) -> None:
        """Serve ``methods``. ``allocate`` returns memory for long inference requests, which a worker can read."""
        self.methods = methods
        self.front = front
        self.access = access
        self.allocate = allocate
        self.quota = BodyQuota(MAX_RECEIVED)
        self.unpacked_quota = BodyQuota(2 * MAX_UNPACKED)
        self.waiting: Bytes = 0  #: number of bytes of responses that wait until their clients read
        self.unpacking = asyncio.Lock()
        self.shed_replies = ShedReplies()
        self.running = {"infer": 0, "stream": 0, "other": 0}  #: number of calls that are served, by `Method.kind`


class Handler:
    """The calls of one connection. It implements `clockwork.http2.streams.Receiver`."""

    def __init__(self, serving: Serving, caller: Caller, flush: Callable[[], None]) -> None:
        """Handle the calls of ``caller``. ``flush`` writes the bytes that `http` has to send."""
        self.http: Connection  #: the host sets this attribute
        self.writes_paused = False  #: whether the client reads too slowly
        self.has_shed = False  #: whether calls were shed since the last call of `begin_read`
        self._serving = serving
        self._caller = caller
        self._flush = flush
        self._reception = serving.front.reception
        self._loop = asyncio.get_running_loop()
        self._now: Nanos = 0
        self._arrived: Nanos = 0  #: when the bytes of this read arrived
        self._first_arrived: Nanos = 0  #: when the first byte of the next head arrived
        self._is_behind = False
        self._opened: list[Call] = []  #: calls of this read

    # --- reading -----------------------------------------------------------------------------------------------------

    def begin_read(self, now: Nanos, arrived: Nanos, first_arrived: Nanos) -> None:
        """Note the time before `http` parses bytes.

        Args:
            now: the time of the read.
            arrived: when the bytes may have arrived at the earliest.
            first_arrived: the same for the beginning of the first frame, a part of which was read before.
        """
        self._now, self._arrived, self._first_arrived = now, arrived, first_arrived
        self._is_behind = self._reception.is_behind(now)
        self.has_shed = False

    def end_read(self) -> None:
        """Limit the time of the calls whose message is incomplete."""
        for call in self._opened:
            if call.is_open and call.timer is None and call.method is not _REFUSED and not call.stream.client_ended:
                self._start_timer(call)
        self._opened.clear()

    def head_of(self, block: Block) -> Head | None:
        """Return the head of a call, or None if it is malformed."""
        return head_of(block, MAX_METADATA_BYTES)

    def opened(self, stream: Stream, head: Head) -> None:
        """Begin a call, or refuse it."""
        arrived, self._first_arrived = self._first_arrived, self._arrived
        method, refusal = self._serving.methods.get(head.path), None
        if head.http_status != 200:
            self.http.send_trailers(stream, http_block(head.http_status))
            return
        if head.failure is not None or not self._serving.access.open or method is None:
            refusal = self._refusal(head, method)
            if refusal is not None or method is None:
                method = _REFUSED
        allocate = self._serving.allocate if method.infers else None
        incoming = Incoming(MAX_REQUEST_BYTES, self._serving.quota, allocate)
        call = stream.call = Call(self._caller, stream, head, method, incoming, arrived)
        self._opened.append(call)
        if refusal is not None:
            self._refuse(call, refusal)
        elif method.streaming is not None:
            self._start(call)
        elif stream.client_ended:
            self.ended(stream)

    def _refusal(self, head: Head, method: Method | None) -> Failure | None:
        """Return the failure of a call whose head is wrong, whose method is unknown or whose token is not right."""
        if head.failure is not None:
            return head.failure
        try:
            check_access(self._serving.access, head)
        except NotPermittedError as error:
            return Failure.from_denial(error)
        return Failure.unsupported(f"method {head.path[:200]} is unknown") if method is None else None

    def _refuse(self, call: Call, refusal: Failure) -> None:
        """Refuse a call when its client has sent a message, or after a delay."""
        if refusal.status == Status.NOT_AUTHENTICATED and authorization(call.head):
            call.task = self._loop.create_task(self._refuse_late(call, refusal))
        elif call.stream.client_ended:
            self._end(call, refusal)
        else:
            call.refusal = refusal
            call.timer = self._loop.call_later(REFUSAL_DELAY, self._refuse_now, call)

    def _refuse_now(self, call: Call) -> None:
        if call.is_open and call.refusal is not None:
            self._end(call, call.refusal)
            self._flush()

    async def _refuse_late(self, call: Call, refusal: Failure) -> None:
        """Refuse a call whose token is unknown."""
        await self._serving.front.token_brake.delay()
        if call.is_open:
            self._end(call, refusal)
            self._flush()

    def received(self, stream: Stream, data: bytes | memoryview) -> None:
        """Add bytes to a call's messages, or refuse the call if the server is overloaded."""
        call: Call | None = stream.call
        if call is None:
            return
        incoming, method = call.incoming, call.method
        if method is _REFUSED:
            if call.refusal is not None:
                self._end(call, call.refusal)
            return
        if method.infers and self._is_behind and not incoming.kept and self._shed(call, data):
            return
        try:
            incoming.receive(data, self._arrived)
            if method.streaming is None and incoming.has_more_than_one:
                raise one_message()
        except (InvalidRequestError, RequestFailedError) as error:
            self._end(call, _failure_of_body(error))
            return
        self._continue(call)

    def _continue(self, call: Call) -> None:
        """Serve the messages of a stream, and let the client send more."""
        if call.method.streaming is not None:
            call.continue_tasks()
        if not call.stream.client_ended:
            self._grant(call)

    def memory(self, stream: Stream) -> memoryview | None:
        """Return the memory for the next bytes of a call's message, or None if there is none."""
        call: Call | None = stream.call
        return None if call is None else call.incoming.rest()

    def received_directly(self, stream: Stream, nbytes: Bytes) -> None:
        """Count bytes that were received into the memory of a call's message."""
        call: Call | None = stream.call
        if call is None:
            return
        try:
            call.incoming.received_directly(nbytes)
        except RequestFailedError as error:
            self._end(call, error.failure)
        else:
            self._continue(call)

    def _grant(self, call: Call) -> None:
        """Let the client send more, unless many bytes wait."""
        stream, incoming = call.stream, call.incoming
        missing = incoming.missing
        if (missing > stream.granted or stream.unreported > STREAM_WINDOW // 2) and incoming.waiting < STREAM_WINDOW:
            self.http.grant(stream, missing)

    def _shed(self, call: Call, data: bytes | memoryview) -> bool:
        """Refuse a call that cannot be in time, and return True.

        ``data`` is the beginning of the message. It contains the model.
        """
        length = PREFIX.unpack_from(data)[1] if len(data) >= PREFIX.size else 0
        model, version = model_and_version(data[PREFIX.size :])
        reception, slo = self._reception, call.timeout
        if length >= MIN_SPLIT_BYTES:
            shed = reception.refuses(model, call.arrived, slo, large=True, version=version)
        else:
            shed = reception.check(self._now, model, call.arrived, slo, version)
            if shed is not None:
                reception.count_refused(shed, self._now, model, version, call.arrived, slo)
        if shed is None:
            return False
        self.has_shed = True
        self._close(call)
        self.http.send_trailers(call.stream, self._serving.shed_replies.block(shed))
        return True

    def ended(self, stream: Stream) -> None:
        """Serve a unary call whose message is complete, or end the iterator over the messages of a stream."""
        call: Call | None = stream.call
        if call is None:
            return
        if call.method is _REFUSED:
            if call.refusal is not None:
                self._end(call, call.refusal)
        elif call.method.streaming is not None:
            call.continue_tasks()
        elif not call.incoming.messages or call.incoming.is_incomplete:
            self._end(call, _failure_of_body(one_message()))
        elif call.method.infers:
            self._put(call)
        else:
            self._start(call)

    def _put(self, call: Call) -> None:
        """Put a call into the inbox. From now on, the controller watches its deadline."""
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        model, version = "", ""
        if call.timeout is None:  # the model determines the deadline
            model, version = model_and_version(call.incoming.messages[0].data)
        call.waiting = self._reception.put(partial(self._start, call), model, call.timeout, version)

    def reset(self, stream: Stream) -> None:
        """Cancel a call, because its client has reset it."""
        call: Call | None = stream.call
        if call is not None:
            self._close(call)

    def drained(self, stream: Stream) -> None:
        """Continue a call that waits until its client has received the responses."""
        call: Call | None = stream.call
        if call is not None:
            call.continue_tasks()

    # --- calls -------------------------------------------------------------------------------------------------------

    def calls(self) -> list[Call]:
        """Return the open calls."""
        return [stream.call for stream in self.http.streams.values() if stream.call is not None]

    def continue_writing(self) -> None:
        """Continue the calls that wait until the client reads."""
        self.writes_paused = False
        for call in self.calls():
            call.continue_tasks()

    def abandon(self) -> None:
        """Cancel all calls, because the connection has ended."""
        for call in self.calls():
            self._close(call)

    def _start(self, call: Call) -> None:
        call.waiting = None
        running, kind = self._serving.running, call.method.kind
        if running[kind] >= MAX_CALLS:
            text = f"the limit of {MAX_CALLS} calls at a time is reached; retry later"
            self._end(call, Failure(503, "RESOURCE_EXHAUSTED", text, Status.SKIPPED_BY_CONTROLLER, retry_after=SECOND))
            self._flush()
            return
        running[kind] += 1
        call.is_counted = True
        if not call.method.infers and call.timeout is not None and call.timer is None:
            self._start_timer(call)
        call.task = self._loop.create_task(self._serve(call))

    async def _serve(self, call: Call) -> None:
        try:
            if call.method.unary is not None:
                reply = await self._reply(call)
                if call.is_open:
                    self._answer(call, reply)
            else:
                await self._stream(call)
        except Exception as error:  # noqa: BLE001 - `failure_of_error` logs unexpected errors
            if call.is_open:
                self._end(call, _failure_of_body(error))
        self._flush()

    async def _reply(self, call: Call) -> bytes:
        assert call.method.unary is not None
        message = call.incoming.take()
        if not message.compressed:
            return await call.method.unary(message.data, call)
        with UnpackedBytes(self._serving.unpacked_quota) as unpacked:
            return await call.method.unary(await self._unpacked(call, message, unpacked), call)

    def _answer(self, call: Call, reply: bytes) -> None:
        self._check_response(call, reply)
        self._close(call, cancel=False)
        self.http.answer(call.stream, HEAD, (PREFIX.pack(0, len(reply)), reply), OK)

    def _check_response(self, call: Call, reply: bytes) -> None:
        """Fail a call whose response is too long, or would wait while the responses that wait take too much memory."""
        size = len(reply)
        if size > MAX_RESPONSE_BYTES:
            text = f"the response is {show_bytes(size)}; the limit is {show_bytes(MAX_RESPONSE_BYTES)}"
            raise RequestFailedError(Failure(500, "RESOURCE_EXHAUSTED", text, Status.ERROR))
        if self._serving.waiting + size > MAX_WAITING and (
            self.writes_paused or self.http.must_wait(call.stream, PREFIX.size + size)
        ):
            text = f"the limit of {show_bytes(MAX_WAITING)} for responses that wait for clients is reached; retry later"
            raise RequestFailedError(Failure(503, "RESOURCE_EXHAUSTED", text, Status.ERROR, retry_after=SECOND))

    async def _stream(self, call: Call) -> None:
        assert call.method.streaming is not None
        async with aclosing(call.method.streaming(self._messages(call), call)) as replies:  # type: ignore[type-var]
            async for reply in replies:
                self._check_response(call, reply)
                if not call.has_begun:
                    call.has_begun = True
                    self.http.send_head(call.stream, HEAD)
                self.http.send_data(call.stream, (PREFIX.pack(0, len(reply)), reply))
                self._flush()
                while call.stream.queue is not None or self.writes_paused:
                    await call.wait()
        self._close(call, cancel=False)
        self.http.send_trailers(call.stream, OK if call.has_begun else HEAD_ONLY + OK)

    async def _messages(self, call: Call) -> AsyncIterator[Any]:
        """Yield the messages of a stream as they arrive."""
        incoming = call.incoming
        while True:
            if incoming.messages:
                message = incoming.take()
                if not call.stream.client_ended:
                    self._grant(call)
                    self._flush()
                if message.compressed:
                    with UnpackedBytes(self._serving.unpacked_quota) as unpacked:
                        yield message._replace(data=await self._unpacked(call, message, unpacked))
                else:
                    yield message
            elif call.stream.client_ended:
                if incoming.is_incomplete:
                    raise InvalidRequestError("the last message of the stream is incomplete")
                return
            else:
                await call.wait()

    async def _unpacked(self, call: Call, message: Message, unpacked: UnpackedBytes) -> bytes:
        encoding = call.head.encoding.encode()
        if encoding == b"identity":
            text = "a message is compressed, but grpc-encoding is missing"
            raise RequestFailedError(Failure(400, "INTERNAL", text, Status.INVALID_REQUEST))
        return bytes(await unpack(message.data, encoding, unpacked, MAX_UNPACKED, self._serving.unpacking))

    def _start_timer(self, call: Call) -> None:
        """End a call at its deadline. If it has no deadline, limit the time in which a message must arrive."""
        timeout = call.timeout
        if timeout is None or (call.method.infers and timeout > UPLOAD_TIME):
            self._limit_upload(call)
            return
        left = call.arrived + timeout - self._reception.clock.now()
        call.timer = self._loop.call_later(max(0, left) / SECOND, self._expire, call)

    def _limit_upload(self, call: Call) -> None:
        incoming = call.incoming
        begun = incoming.completed if incoming.is_incomplete else None
        call.timer = self._loop.call_later(UPLOAD_TIME / SECOND, self._check_upload, call, begun)

    def _check_upload(self, call: Call, begun: int | None) -> None:
        """End a call whose message has not arrived in time.

        A stream may last longer, but each of its messages must arrive within twice the time. ``begun`` is the index of
        the message that was incomplete at the last check.
        """
        if not call.is_open or call.stream.client_ended:
            return
        incoming = call.incoming
        is_late = incoming.is_incomplete and not incoming.messages and incoming.completed == begun
        if is_late or call.method.streaming is None:
            self._end(call, Failure.from_status(Status.TIMEOUT, "the message arrived too slowly"))
            self._flush()
        else:
            self._limit_upload(call)

    def _expire(self, call: Call) -> None:
        if call.is_open:
            text = "the deadline passed before the response" if call.task else "the message arrived too slowly"
            self._end(call, Failure.from_status(Status.TIMEOUT, text))
            self._flush()

    def _end(self, call: Call, failure: Failure) -> None:
        """End a call with a failure."""
        self._close(call)
        block = failure_block(failure)
        self.http.send_trailers(call.stream, block if call.has_begun else HEAD_ONLY + block)

    def _close(self, call: Call, *, cancel: bool = True) -> None:
        """Stop to serve a call. Its response may still be sent."""
        call.stream.call = None
        call.incoming.close()
        if call.is_counted:
            call.is_counted = False
            self._serving.running[call.method.kind] -= 1
        if call.timer is not None:
            call.timer.cancel()
        if call.waiting is not None:
            call.waiting.withdraw()
        if cancel and call.task is not None and call.task is not asyncio.current_task():
            call.task.cancel()


def _failure_of_body(error: Exception) -> Failure:
    if isinstance(error, TooLongError):
        return Failure(413, "RESOURCE_EXHAUSTED", str(error), Status.INVALID_REQUEST)
    return failure_of_error(error, log)
