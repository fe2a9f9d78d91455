"""Two well-behaved peers: messages and payloads in order, and the end of a connection with its reason."""

import asyncio
import random
from typing import Any

import pytest

from clockwork.clock import MonotonicClock, OffsetClock
from clockwork.errors import InvalidRequestError, ProtocolError, ServerError
from clockwork.messages.link import ROLE_WORKER, Hello
from clockwork.messages.requests import EvictRequest, EvictResponse
from clockwork.net.address import Address
from clockwork.net.connection import Connection, ConnectionState, LinkConfig
from clockwork.units import KIB, MIB, SECOND, ms, seconds
from net.links import (
    HELLO,
    LOOPBACK,
    LOOPS,
    Ear,
    anonymous_tls,
    dialled,
    echo,
    eventually,
    listening,
    refusal,
    round_trip,
    run,
)

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


@on_both_loops
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_messages_and_payloads_arrive_as_they_were_sent(loop: str, encrypted: bool) -> None:
    async def test() -> None:
        ours, theirs = anonymous_tls() if encrypted else (None, None)
        rng = random.Random(1)
        ear = Ear()
        async with listening(Ear(echo), tls=ours) as server:
            connection = await dialled(server, ear, tls=theirs)
            for size in (0, 1, 1000, 16 * KIB, 64 * KIB, 602_112, 5 * MIB):
                await round_trip(connection, ear, rng.randbytes(size))
            connection.close("enough")
            assert await connection.closed == "enough"

    run(test(), loop)


@on_both_loops
def test_order_is_kept_whatever_the_sizes(loop: str) -> None:
    async def test() -> None:
        rng = random.Random(2)
        payloads = [rng.randbytes(rng.choice((0, 10, 1000, 20_000, 100_000, MIB))) for _ in range(60)]
        ear, client = Ear(echo), Ear()
        async with listening(ear) as server:
            connection = await dialled(server, client)
            for i, payload in enumerate(payloads):
                connection.send(EvictRequest(i, "m"), [payload[:5], payload[5:]])
            await client.until(lambda: len(client.messages) == len(payloads))
            assert client.messages == [(EvictResponse(i, 0, ""), payload) for i, payload in enumerate(payloads)]
            connection.close("enough")
            await connection.closed

    run(test(), loop)


@on_both_loops
def test_three_hundred_connections_at_once(loop: str) -> None:
    async def test() -> None:
        ear = Ear(echo)
        async with listening(ear) as server:
            ears = [Ear() for _ in range(300)]
            connections = await asyncio.gather(*(dialled(server, ear) for ear in ears))
            await asyncio.gather(*(round_trip(*pair) for pair in zip(connections, ears, strict=True)))
            assert len(server) == len(ear.connected) == 300
            for connection in connections:
                connection.close("enough")
            await ear.until(lambda: len(ear.closed) == 300)
            assert set(ear.reasons) == {"the peer closed the connection: enough"}
            await asyncio.wait([connection.closed for connection in connections])

    run(test(), loop)


def test_both_sides_know_the_name_of_their_peer() -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear) as server:
            connection = await dialled(server, Ear())
            (accepted,) = ear.connected
            assert accepted.peer_name == "c0"
            assert accepted.peer.startswith("client 'c0' at 127.0.0.1:")
            assert connection.peer == str(server.address)
            assert accepted.established
            assert connection.established

    run(test())


def test_a_message_has_the_time_when_it_was_received() -> None:
    async def test() -> None:
        clock = MonotonicClock()
        times: list[int] = []
        ear = Ear(lambda connection, message, payload: times.append(connection.received_at))
        async with listening(ear, clock=clock) as server:
            connection = await dialled(server, Ear())
            before = clock.now()
            connection.send(EvictRequest(1, "m"))
            await ear.until(lambda: bool(times))
            assert before < times[0] <= clock.now()

    run(test())


# -------------------------------------------------------------------------------------------------------------- the end


@on_both_loops
def test_each_side_learns_once_why_the_connection_ended(loop: str) -> None:
    async def test() -> None:
        ear, client = Ear(), Ear()
        async with listening(ear) as server:
            connection = await dialled(server, client)
            connection.close("the client has finished")
            connection.close("and again")
            connection.send(EvictRequest(1, "m"))  # is dropped
            assert client.closed == [], "never from within close"
            await client.until(lambda: bool(client.closed))
            await ear.until(lambda: bool(ear.closed))
            assert client.reasons == ["the client has finished"]
            assert ear.reasons == ["the peer closed the connection: the client has finished"]
            assert ear.messages == []
            assert connection.state is ConnectionState.CLOSED
            assert connection.outgoing_bytes == 0
            connection.close("too late")
            connection.abort("too late")

    run(test(), loop)


@on_both_loops
def test_a_server_that_closes_says_goodbye_to_all(loop: str) -> None:
    async def test() -> None:
        clients = [Ear() for _ in range(5)]
        async with listening(Ear()) as server:
            for client in clients:
                await dialled(server, client)
        for client in clients:
            await client.until(lambda client=client: bool(client.closed))  # type: ignore[misc]
            assert client.reasons == ["the peer closed the connection: the test is over"]
        assert "connection refused: is the controller running?" in await refusal(server)

    run(test(), loop)


@on_both_loops
def test_messages_sent_before_the_end_arrive(loop: str) -> None:
    async def test() -> None:
        ear, client = Ear(), Ear()
        async with listening(ear) as server:
            connection = await dialled(server, client)
            connection.send(EvictRequest(1, "m"), [bytes(MIB)])
            connection.send(EvictRequest(2, "m"))
            connection.close("enough")
            await ear.until(lambda: bool(ear.closed))
            assert [message.id for message, _ in ear.messages] == [1, 2]

    run(test(), loop)


@on_both_loops
def test_a_peer_is_disconnected_if_a_callback_raises_a_protocol_error(loop: str) -> None:
    def refuse(connection: Connection, message: Any, payload: Any) -> None:
        raise ProtocolError(f"{len(payload)} bytes too many")

    async def test() -> None:
        ear, client = Ear(refuse), Ear()
        async with listening(ear) as server:
            connection = await dialled(server, client)
            connection.send(EvictRequest(1, "m"), [b"12345"])
            await client.until(lambda: bool(client.closed))
            await ear.until(lambda: bool(ear.closed))
            assert client.reasons == ["the peer closed the connection: 5 bytes too many"]
            assert ear.reasons == ["5 bytes too many"]

    run(test(), loop)


@on_both_loops
def test_a_callback_with_a_bug_ends_one_connection(loop: str) -> None:
    async def test() -> None:
        bugs: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context["exception"]))

        def answer(connection: Connection, message: Any, payload: Any) -> None:
            if message.model == "bug":
                raise ZeroDivisionError
            echo(connection, message, payload)

        ear, unlucky, lucky = Ear(answer), Ear(), Ear()
        async with listening(ear) as server:
            bad, good = await dialled(server, unlucky), await dialled(server, lucky)
            bad.send(EvictRequest(1, "bug"))
            await unlucky.until(lambda: bool(unlucky.closed))
            await ear.until(lambda: bool(ear.closed))
            await round_trip(good, lucky)
            assert len(ear.closed) == 1
            assert [type(bug) for bug in bugs] == [ZeroDivisionError]

    run(test(), loop)


def test_a_message_that_is_too_long_is_refused_and_the_connection_stays_open() -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(Ear(echo), config=LinkConfig(max_frame_bytes=100 * KIB)) as server:
            connection = await dialled(server, ear)
            with pytest.raises(
                InvalidRequestError, match=r"message is 200\.0 KiB; the limit of the connection is 100\.0 KiB"
            ):
                connection.send(EvictRequest(1, "m"), [bytes(200 * KIB)])
            await round_trip(connection, ear, bytes(99 * KIB))

    run(test())


def test_the_dialling_side_takes_over_the_limit_of_the_listener() -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(Ear(echo), config=LinkConfig(max_frame_bytes=3 * MIB)) as server:
            connection = await dialled(server, ear, config=LinkConfig(max_frame_bytes=MIB))
            await round_trip(connection, ear, bytes(2 * MIB))

    run(test())


@pytest.mark.parametrize("limit", [0, -1, 1 << 32])
def test_impossible_limits_are_refused(limit: int) -> None:
    with pytest.raises(InvalidRequestError, match="it must be 1 to 4294967295"):
        LinkConfig(max_frame_bytes=limit)


# ------------------------------------------------------------------------------------------------------ listen and dial


def test_port_zero_lets_the_system_choose_one_port_even_for_a_name() -> None:
    async def test() -> None:
        async with listening(Ear(), address=Address("localhost", 0)) as server:
            assert server.port > 0
            await dialled(server, Ear())

    run(test())


def test_an_address_in_use_is_named_in_the_error() -> None:
    async def test() -> None:
        async with listening(Ear()) as server:
            with pytest.raises(ServerError, match=rf"cannot listen on 127\.0\.0\.1:{server.port}: .*in use"):
                async with listening(Ear(), address=server.address):
                    pass

    run(test())


def test_a_wrong_role_gets_an_error_with_the_port_s_role() -> None:
    async def test() -> None:
        async with listening(Ear()) as server:
            why = await refusal(server, hello=Hello(ROLE_WORKER, "w0", "test"))
            assert why == (
                f"cannot connect to {server.address}: the peer closed the connection: "
                "this port is for the role 'client', not 'worker'; use the controller's other port"
            )

    run(test())


def test_connections_above_the_limit_get_an_error() -> None:
    async def test() -> None:
        ear, client = Ear(echo), Ear()
        async with listening(ear, max_connections=2) as server:
            first = await dialled(server, client)
            second = await dialled(server, Ear())
            assert "connection limit reached (2)" in await refusal(server)
            await round_trip(first, client)
            second.close("making room")
            await ear.until(lambda: bool(ear.closed))
            await dialled(server, Ear())

    run(test())


@pytest.mark.parametrize("name", ["x" * 201, ""])
def test_the_length_of_names_is_limited(name: str) -> None:
    async def test() -> None:
        async with listening(Ear()) as server:
            hello = Hello(HELLO.role, name, "")
            if name:
                assert "the limit is 200 characters" in await refusal(server, hello=hello)
            else:
                await dialled(server, Ear(), hello)

    run(test())


# ------------------------------------------------------------------------------------------------------------ the clock


@on_both_loops
def test_the_offset_of_the_other_clock_is_known_within_its_bound(loop: str) -> None:
    async def test() -> None:
        ours = MonotonicClock()
        theirs = OffsetClock(ours, seconds(1000))
        ear = Ear()
        config = LinkConfig(measure_clock=True, heartbeat_interval=ms(20))
        async with listening(ear, clock=ours, config=config) as server:
            await dialled(server, Ear(), clock=theirs)
            (accepted,) = ear.connected
            await eventually(lambda: accepted.clock_offset.samples >= 12)
            offset = accepted.clock_offset
            assert abs(offset.offset_ns - seconds(1000)) <= offset.error_ns(ours.now()) < SECOND

    run(test(), loop)


def test_reading_can_be_paused() -> None:
    async def test() -> None:
        ear, client = Ear(echo), Ear()
        async with listening(ear) as server:
            connection = await dialled(server, client)
            await round_trip(connection, client)
            (accepted,) = ear.connected
            accepted.pause_reading()
            connection.send(EvictRequest(99, "m"))
            other = Ear()
            await round_trip(await dialled(server, other), other)  # the first would have arrived by now
            assert len(ear.messages) == 2
            accepted.resume_reading()
            await client.until(lambda: len(client.messages) == 2)

    run(test())


def test_an_address_is_shown_as_it_is_written() -> None:
    assert str(LOOPBACK) == "127.0.0.1:0"
    assert str(Address("::1", 5)) == "[::1]:5"
