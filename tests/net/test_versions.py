"""Peers of other versions: they either understand each other, or get a refusal that names both versions."""

import asyncio
import logging
import random

import msgspec
import pytest

from clockwork.errors import ConnectionLostError, OtherVersionError
from clockwork.messages.link import PROTOCOL_VERSION, ROLE_CLIENT, Goodbye, Hello
from clockwork.net import dial
from clockwork.net.connection import Connection, LinkConfig
from clockwork.net.dial import keep_dialled
from clockwork.units import ms
from clockwork.version import __version__
from clockwork.wire.frame import encode_frame, preamble
from net.links import Ear, dialled, echo, framed, listening, other_server, raw_peer, round_trip, run

NEWER = PROTOCOL_VERSION + 1
OWN = f"this side (clockwork {__version__}) uses version {PROTOCOL_VERSION}"
REMEDY = "install the same version of Clockwork on both sides"


def frame_of(*fields: object) -> bytes:
    """Return a frame whose header is the given array, as another version would encode it."""
    return b"".join(encode_frame(msgspec.msgpack.encode(fields)))


GREETINGS = {
    "newer": (preamble(NEWER) + frame_of(1000, "client", "c9", "clockwork 9.0", "", "", [], "more", [1]), NEWER),
    "older": (preamble(0) + frame_of(1000, "client", "c9", "clockwork 0.0.1"), 0),
    "other last bytes": (b"CLKW\x02\x00\x07\x00" + frame_of(1000, "client", "c9", "clockwork 9.0"), NEWER),
}


@pytest.mark.parametrize("which", GREETINGS)
def test_a_peer_of_another_protocol_version_gets_both_versions_and_what_to_do(
    which: str, caplog: pytest.LogCaptureFixture
) -> None:
    greeting, version = GREETINGS[which]

    async def test() -> None:
        async with listening(Ear(echo)) as server, raw_peer(server) as peer:
            peer.send(greeting)
            message = await peer.hears()
            assert isinstance(message, Goodbye)
            assert message.other_version
            assert "client 'c9' (clockwork " in message.reason
            assert f"uses version {version} of the protocol; {OWN}: {REMEDY}" in message.reason
            assert message.reason in caplog.text

    with caplog.at_level(logging.WARNING):
        run(test())


@pytest.mark.parametrize("rest", [b"\xff" * 20, frame_of(4711, 1), framed(Hello(ROLE_CLIENT, "c", "x" * 201)), b""])
def test_a_peer_of_another_version_whose_greeting_is_unreadable_still_gets_both_versions(rest: bytes) -> None:
    async def test() -> None:
        config = LinkConfig(hello_timeout=ms(20))
        async with listening(Ear(echo), config=config) as server, raw_peer(server) as peer:
            peer.send(preamble(NEWER) + rest)
            assert await peer.goodbye() == f"the peer uses version {NEWER} of the protocol; {OWN}: {REMEDY}"

    run(test())


def test_a_refusal_of_an_older_version_without_the_newer_fields_is_understood() -> None:
    async def test() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(frame_of(1002, "go away"))
            await reader.read()

        async with other_server(serve) as address:
            with pytest.raises(ConnectionLostError, match="go away") as error:
                await dialled(address, Ear())
        assert not isinstance(error.value, OtherVersionError)

    run(test())


def test_a_peer_of_the_same_protocol_version_with_more_fields_is_served() -> None:
    async def test() -> None:
        ear = Ear(echo)
        async with listening(ear) as server, raw_peer(server) as peer:
            peer.send(preamble() + frame_of(1000, "client", "c9", "clockwork 9.0", "", "", ["New"], {"and": "newer"}))
            await ear.until(lambda: bool(ear.connected))
            assert ear.connected[0].peer_software == "clockwork 9.0"
            other = Ear()
            await round_trip(await dialled(server, other), other)

    run(test())


def test_a_worker_that_is_refused_because_of_its_version_waits_longer_and_then_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        refused = Goodbye("worker 'w' uses version 1 of the protocol", other_version=True)
        waits: list[float] = []
        failures: list[str] = []
        connected: list[Connection] = []
        sleep = asyncio.sleep

        async def pretend(delay: float) -> None:
            waits.append(delay)
            await sleep(0)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(framed(refused))
            await reader.read()

        ear = Ear()
        async with other_server(serve) as newer, listening(Ear(echo)) as server:
            monkeypatch.setattr(asyncio, "sleep", pretend)

            async def connect() -> Connection:
                return await dialled(newer if len(failures) < 3 else server.address, ear)

            def on_connected(connection: Connection) -> None:
                connected.append(connection)
                task.cancel()

            task = asyncio.ensure_future(
                keep_dialled(connect, on_connected=on_connected, on_failure=failures.append, rng=random.Random(1))
            )
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(connected) == 1
        assert len(failures) == 3
        assert all("worker 'w' uses version 1 of the protocol" in failure for failure in failures)
        assert all(dial.OTHER_VERSION_WAIT / 2 <= wait <= dial.OTHER_VERSION_WAIT for wait in waits)
        assert len(waits) == 3

    run(test())
