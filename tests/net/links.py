"""Provides both ends of connections on loopback: recorders of callbacks, and peers that send arbitrary bytes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from clockwork.errors import ConnectionLostError
from clockwork.messages.link import ROLE_CLIENT, Goodbye, Hello
from clockwork.messages.requests import EvictRequest, EvictResponse
from clockwork.net.address import Address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.net.server import Server, listen
from clockwork.wire.codec import decode_request, decode_response, encode
from clockwork.wire.frame import FrameReader, encode_frame, preamble

LOOPBACK = Address("127.0.0.1", 0)
HELLO = Hello(ROLE_CLIENT, "c0", "test")
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def run(test: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    """Run a test's coroutine to its end, for at most 20 s."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(test, 20))


async def eventually(condition: Callable[[], bool]) -> None:
    """Poll until a condition is true."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class Ear:
    """Records one side's callbacks, and wakes tests that wait for them. On a server, it can also answer."""

    def __init__(
        self, answer: Callable[[Connection, Any, Any], None] = lambda connection, message, payload: None
    ) -> None:
        self.answer = answer
        self.connected: list[Connection] = []
        self.messages: list[tuple[Any, bytes]] = []
        self.closed: list[tuple[Connection, str]] = []
        self.writable: list[bool] = []
        self._something = asyncio.Event()

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason in self.closed]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._something.clear()
            await self._something.wait()

    def on_connected(self, connection: Connection) -> None:
        self.connected.append(connection)
        self._something.set()

    def on_message(self, connection: Connection, message: Any, payload: Any) -> None:
        self.messages.append((message, bytes(payload)))
        self._something.set()
        self.answer(connection, message, payload)

    def on_closed(self, connection: Connection, reason: str) -> None:
        assert all(connection is not other for other, _ in self.closed), "on_closed was called twice"
        self.closed.append((connection, reason))
        self._something.set()

    def on_writable(self, connection: Connection, writable: bool) -> None:
        assert connection.writable is writable
        self.writable.append(writable)
        self._something.set()


def echo(connection: Connection, message: Any, payload: Any) -> None:
    """Answer a request with its own payload."""
    connection.send(EvictResponse(message.id, 0, ""), [payload])


@asynccontextmanager
async def listening(ear: Ear, **settings: Any) -> AsyncIterator[Server]:
    """Start a server for clients. At the end, each connection must have been reported as closed exactly once."""
    server = await listen(
        settings.pop("address", LOOPBACK),
        role=ROLE_CLIENT,
        decode=decode_request,
        on_connected=ear.on_connected,
        on_message=ear.on_message,
        on_closed=ear.on_closed,
        on_writable=ear.on_writable,
        **settings,
    )
    try:
        yield server
    finally:
        await server.close("the test is over")
        assert len(ear.closed) == len(ear.connected)


async def dialled(server: Server | Address, ear: Ear, hello: Hello = HELLO, **settings: Any) -> Connection:
    """Return a client's connection."""
    return await dial(
        server if isinstance(server, Address) else server.address,
        hello,
        decode=decode_response,
        on_message=ear.on_message,
        on_closed=ear.on_closed,
        on_writable=ear.on_writable,
        **settings,
    )


async def refusal(server: Server | Address, **settings: Any) -> str:
    """Return the reason why a client cannot connect."""
    try:
        await dialled(server, Ear(), **settings)
    except ConnectionLostError as error:
        return str(error)
    raise AssertionError("connected")


async def round_trip(connection: Connection, ear: Ear, payload: bytes = b"payload") -> None:
    """Send a request and wait for its answer."""
    before = len(ear.messages)
    connection.send(EvictRequest(before, "m"), [payload])
    await ear.until(lambda: len(ear.messages) > before or connection.closing)
    assert ear.messages[before:] == [(EvictResponse(before, 0, ""), payload)]


class RawPeer:
    """A peer that sends arbitrary bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._frames = FrameReader()
        self.heard: list[Any] = []

    def send(self, *messages: Any) -> None:
        """Send frames. Bytes are sent unchanged."""
        for message in messages:
            self.writer.write(message if isinstance(message, bytes) else framed(message))

    async def hears(self) -> Any:
        """Return the next message."""
        while not self.heard:
            data = await self._reader.read(10_000)
            assert data, "the connection was closed"
            self.heard += _messages(self._frames, data)
        return self.heard.pop(0)

    async def goodbye(self) -> str:
        """Return the reason in the Goodbye, which is the last message before the end."""
        while not isinstance(message := await self.hears(), Goodbye):
            pass
        assert not self.heard
        assert await self._reader.read() == b"", "something came after the Goodbye"
        return message.reason


def framed(message: Any, payload: bytes = b"") -> bytes:
    return b"".join(encode_frame(encode(message), [payload]))


def _messages(reader: FrameReader, data: bytes) -> list[Any]:
    found = []
    while data:
        buffer = reader.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        data = data[size:]
        found += [decode_response(header) for header, _ in reader.buffer_updated(size)]
    return found


@asynccontextmanager
async def raw_peer(server: Server, *, greets: bool = False) -> AsyncIterator[RawPeer]:
    """Open a raw connection. If ``greets``, it begins with a valid greeting."""
    peer = RawPeer(*await asyncio.open_connection(*server.address))
    try:
        if greets:
            peer.send(preamble(), HELLO)
            await peer.hears()  # this reads the Welcome
        yield peer
    finally:
        peer.writer.transport.abort()


@asynccontextmanager
async def other_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> AsyncIterator[Address]:
    """Start a server that is not Clockwork. ``serve`` ends when the connection ends."""
    tasks: list[asyncio.Task[Any]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield Address(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def anonymous_tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts for a server and a client that encrypt without certificates, so that tests need no keys."""
    contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    contexts[1].check_hostname = False
    contexts[1].verify_mode = ssl.CERT_NONE
    for context in contexts:
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # this is the last version with anonymous suites
        context.set_ciphers("aNULL:@SECLEVEL=0")
    return contexts
