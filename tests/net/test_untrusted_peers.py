"""Misbehaving peers: each ends its own connection, gets the reason, and does not affect others."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest

from clockwork.errors import ConnectionLostError
from clockwork.messages.actions import ClearCache
from clockwork.messages.link import Goodbye, Hello, Ping, Pong, Welcome
from clockwork.messages.requests import EvictRequest, EvictResponse
from clockwork.net.connection import LinkConfig
from clockwork.units import KIB, MIB, ms
from clockwork.wire.frame import MAX_FRAME_BYTES, preamble
from net.links import HELLO, LOOPS, Ear, dialled, echo, framed, listening, other_server, raw_peer, round_trip, run

on_both_loops = pytest.mark.parametrize("loop", LOOPS)

GREETING = preamble() + framed(HELLO)
NONSENSE = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "found b'GET / HT': is this an HTTP client?"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "is this a TLS client?"),
    (b"\x00" * 300_000, "unknown protocol"),
    (preamble() + b"\xff" * 20, "frame has 4294967295 bytes"),
    (preamble() + struct.pack("<II", 65 * KIB, 5), "frame has 66560 bytes; the limit is 65536"),
    (preamble() + struct.pack("<II", 4, 4) + b"\xc1123", "header is not a request"),
    (preamble() + framed(EvictRequest(1, "m")), "EvictRequest arrived before the greeting"),
    (preamble() + framed(Ping(1)), "Ping is not allowed now"),
    (preamble() + framed(Welcome("", 1)), "Welcome is not allowed now"),
    (preamble() + framed(Hello("nobody", "", "")), "this port is for the role 'client', not 'nobody'"),
    (GREETING + framed(HELLO), "Hello is not allowed now"),
    (GREETING + framed(ClearCache(1)), "header is not a request: Invalid value 6"),
    (GREETING + framed(EvictResponse(1, 0, "")), "header is not a request: Invalid value 24"),
    (GREETING + b"\xff" * 3_000_000, "frame has 4294967295 bytes"),
]


@on_both_loops
def test_invalid_bytes_get_an_error_and_do_not_affect_others(loop: str) -> None:
    async def test() -> None:
        ear, client = Ear(echo), Ear()
        async with listening(ear) as server:
            friend = await dialled(server, client)
            for nonsense, why in NONSENSE:
                async with raw_peer(server) as peer:
                    peer.send(nonsense)
                    assert why in await peer.goodbye(), nonsense[:20]
                await round_trip(friend, client)
            await ear.until(lambda: len(ear.closed) == len(ear.connected) - 1)
            assert not friend.closing

    run(test(), loop)


def test_the_limits_are_wider_once_the_greeting_is_over() -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear) as server, raw_peer(server, greets=True) as peer:
            peer.send(framed(EvictRequest(1, "m"), bytes(MIB)))
            await ear.until(lambda: len(ear.messages) == 1)
            peer.send(struct.pack("<II", MAX_FRAME_BYTES + 1, 5))
            assert "the limit is 67108864" in await peer.goodbye()

    run(test())


@on_both_loops
def test_an_incomplete_frame_at_the_end_is_reported(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear) as server, raw_peer(server, greets=True) as peer:
            peer.send(framed(EvictRequest(1, "m"), bytes(MIB))[: MIB // 2])
            peer.writer.write_eof()
            await ear.until(lambda: bool(ear.closed))
        (reason,) = ear.reasons
        assert reason.startswith(
            "the peer closed the connection in the middle of a frame: 524302 of a frame's 1048582 bytes"
        )
        assert "closed the connection in the middle of a frame" in caplog.text

    run(test(), loop)


@pytest.mark.parametrize("begun", [b"", b"CL", preamble(), preamble() + framed(HELLO)[:-1]])
def test_a_peer_that_disconnects_before_its_greeting_is_not_reported(begun: bytes) -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear) as server:
            async with raw_peer(server) as peer:
                peer.send(begun)
                await peer.writer.drain()
                peer.writer.write_eof()
                assert await peer._reader.read() == b""
            assert ear.connected == []

    run(test())


@on_both_loops
def test_a_reset_is_reported(loop: str) -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear) as server:
            async with raw_peer(server, greets=True) as peer:
                linger = struct.pack("ii", 1, 0)  # close with a reset
                peer.writer.get_extra_info("socket").setsockopt(1, 13, linger)
            await ear.until(lambda: bool(ear.closed))
        assert "reset" in ear.reasons[0].lower()

    run(test(), loop)


# -------------------------------------------------------------------------------------------------------------- silence

IMPATIENT = LinkConfig(hello_timeout=ms(60), heartbeat_interval=ms(20), heartbeat_timeout=ms(100), linger=ms(100))


@on_both_loops
@pytest.mark.parametrize("begun", [b"", b"CLK", preamble(), preamble() + framed(HELLO)[:-1]])
def test_a_peer_that_does_not_greet_is_disconnected(loop: str, begun: bytes) -> None:
    async def test() -> None:
        async with listening(Ear(), config=IMPATIENT) as server, raw_peer(server) as peer:
            peer.send(begun)
            assert await peer.goodbye() == "no greeting arrived within 60 ms"

    run(test(), loop)


@on_both_loops
def test_a_peer_that_falls_silent_is_pinged_and_given_up(loop: str) -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear, config=IMPATIENT) as server, raw_peer(server, greets=True) as peer:
            assert isinstance(await peer.hears(), Ping)
            why = "nothing was received for 100 ms: the peer hangs, or the network is down"
            assert await peer.goodbye() == why
            await ear.until(lambda: bool(ear.closed))
            assert ear.reasons == [why]

    run(test(), loop)


def test_a_peer_that_answers_pings_stays_connected_and_one_that_sends_is_not_pinged() -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear, config=IMPATIENT) as server, raw_peer(server, greets=True) as peer:
            for _ in range(10):  # twice the timeout
                ping = await peer.hears()
                assert isinstance(ping, Ping)
                peer.send(Pong(ping.sent, 1, 2))
            assert not ear.closed

    run(test())


def test_a_pong_contains_three_times() -> None:
    async def test() -> None:
        async with listening(Ear()) as server, raw_peer(server, greets=True) as peer:
            peer.send(Ping(42))
            pong = await peer.hears()
            assert isinstance(pong, Pong)
            assert pong.ping_sent == 42
            assert 0 < pong.received <= pong.sent

    run(test())


def test_a_peer_that_stays_after_a_goodbye_is_disconnected() -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear, config=IMPATIENT) as server, raw_peer(server, greets=True):
            (accepted,) = ear.connected
            accepted.close("enough")
            assert await accepted.closed == "enough"  # although the peer did not close its side

    run(test())


# -------------------------------------------------------------------------------------------------------- back-pressure


@on_both_loops
def test_a_peer_that_does_not_read_is_dropped_and_the_others_are_served(loop: str) -> None:
    async def test() -> None:
        ear, client = Ear(echo), Ear()
        config = LinkConfig(max_outgoing_bytes=8 * MIB)
        async with listening(ear, config=config) as server:
            friend = await dialled(server, client)
            async with raw_peer(server, greets=True) as peer:
                peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
                accepted = ear.connected[1]
                sent = 0
                while not accepted.closing:
                    accepted.send(EvictResponse(1, 0, ""), [bytes(MIB)])
                    sent += 1
                    assert accepted.outgoing_bytes <= 10 * MIB
                    await asyncio.sleep(0)
                    assert sent < 100, "memory is not bounded"
                assert ear.writable == [False]
                await ear.until(lambda: bool(ear.closed))
                assert ear.reasons[0].startswith("the peer does not read: ")
            await round_trip(friend, client)

    run(test(), loop)


@on_both_loops
def test_a_sender_learns_when_to_stop_and_when_to_go_on(loop: str) -> None:
    async def test() -> None:
        ear, client = Ear(), Ear()
        async with listening(ear) as server:
            connection = await dialled(server, client)
            (accepted,) = ear.connected
            connection.pause_reading()
            sent = 0
            while accepted.writable:
                accepted.send(EvictResponse(sent, 0, ""), [bytes(MIB)])
                sent += 1
                await asyncio.sleep(0)
            connection.resume_reading()
            await ear.until(lambda: accepted.writable)
            assert ear.writable == [False, True]
            await client.until(lambda: len(client.messages) == sent)

    run(test(), loop)


# ------------------------------------------------------------------------------------------------------ other services


def answering(*answers: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(10_000)
            writer.write(answer)
        await reader.read()

    return serve


@on_both_loops
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "expected a Clockwork server, found b'HTTP/1.1': is this an HTTP server?",
        ),
        (framed(Goodbye("not today")), "the peer closed the connection: not today"),
        (framed(HELLO), "Hello is not allowed now"),
        (framed(EvictResponse(1, 0, "")), "EvictResponse arrived before the greeting"),
        (framed(Welcome("", 0)), "the peer's frame limit is 0 bytes"),
        (b"\xff" * 100, "frame has 4294967295 bytes"),
    ],
)
def test_dialling_another_service_reports_what_it_is(loop: str, answer: bytes, why: str) -> None:
    async def test() -> None:
        ear = Ear()
        async with other_server(answering(answer)) as address:
            with pytest.raises(ConnectionLostError) as error:
                await dialled(address, ear)
        assert str(error.value).startswith(f"cannot connect to {address}: ")
        assert why in str(error.value)
        assert ear.closed == []

    run(test(), loop)


@on_both_loops
def test_dialling_a_server_that_never_answers_ends_in_time(loop: str) -> None:
    async def test() -> None:
        async with other_server(answering()) as address:
            with pytest.raises(ConnectionLostError, match=r"cannot connect to .*: no answer within 0\.1 s"):
                await dialled(address, Ear(), timeout=0.1)

    run(test(), loop)


@on_both_loops
def test_messages_that_arrive_with_the_welcome_wait_until_the_caller_has_the_connection(loop: str) -> None:
    early = [EvictResponse(i, 0, "") for i in range(3)]
    frames = framed(Welcome("", MIB)) + b"".join(map(framed, early))

    async def test() -> None:
        ear = Ear()
        async with other_server(answering(frames)) as address:
            connection = await dialled(address, ear)
            assert ear.messages == []
            await ear.until(lambda: len(ear.messages) == 3)
            assert [message for message, _ in ear.messages] == early
            connection.close("enough")
            await connection.closed

    run(test(), loop)


def test_a_welcome_followed_by_a_goodbye_is_a_failure() -> None:
    async def test() -> None:
        ear = Ear()
        async with other_server(answering(framed(Welcome("", MIB)) + framed(Goodbye("sorry")))) as address:
            with pytest.raises(ConnectionLostError, match="the peer closed the connection: sorry"):
                await dialled(address, ear)
        assert ear.closed == []

    run(test())
