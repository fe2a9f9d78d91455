"""Repeated dialling, through restarts, refusals and cancellation."""

import asyncio
import random
import socket
from collections.abc import Callable

import pytest

from clockwork.errors import ConnectionLostError, InvalidRequestError, ServerError
from clockwork.net import dial
from clockwork.net.address import Address, parse_address
from clockwork.net.connection import Connection
from clockwork.net.dial import keep_dialled
from net.links import LOOPS, Ear, dialled, eventually, listening, refusal, run

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "MIN_BACKOFF", 0.001)
    monkeypatch.setattr(dial, "MAX_BACKOFF", 0.02)


def kept(ear: Ear, address: Callable[[], Address], failures: list[str]) -> asyncio.Task[None]:
    return asyncio.ensure_future(
        keep_dialled(
            lambda: dialled(address(), ear),
            on_connected=ear.on_connected,
            on_failure=failures.append,
            rng=random.Random(1),
        )
    )


@on_both_loops
def test_a_server_that_comes_back_is_found_again(loop: str) -> None:
    async def test() -> None:
        client = Ear()
        failures: list[str] = []
        async with listening(Ear()) as server:
            address = server.address
            task = kept(client, lambda: address, failures)
            await client.until(lambda: len(client.connected) == 1)
        await client.until(lambda: len(client.closed) == 1)
        await eventually(lambda: bool(failures))
        assert failures[0] == f"cannot connect to {address}: connection refused: is the controller running?"
        ear = Ear()
        async with listening(ear, address=address):
            await client.until(lambda: len(client.connected) == 2)
            await ear.until(lambda: len(ear.connected) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await ear.until(lambda: bool(ear.closed))
            assert ear.reasons == ["the peer closed the connection: shutting down"]
        assert client.reasons == ["the peer closed the connection: the test is over", "shutting down"]

    run(test(), loop)


def test_the_wait_doubles_up_to_a_limit_and_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        waits: list[float] = []
        sleep = asyncio.sleep

        async def pretend(delay: float) -> None:
            waits.append(delay)
            if len(waits) == 40:
                raise asyncio.CancelledError
            await sleep(0)

        async def unreachable() -> Connection:
            raise ConnectionLostError("connection refused")

        monkeypatch.setattr(asyncio, "sleep", pretend)
        with pytest.raises(asyncio.CancelledError):
            await keep_dialled(
                unreachable, on_connected=lambda connection: None, on_failure=lambda why: None, rng=random.Random(1)
            )
        limits = [min(0.001 * 2**i, 0.02) for i in range(40)]
        assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
        assert len(set(waits)) == 40

    run(test())


def test_a_connection_that_is_closed_at_once_does_not_reset_the_wait() -> None:
    async def test() -> None:
        ear, client = Ear(), Ear()
        async with listening(ear) as server:
            task = kept(client, lambda: server.address, [])
            loop = asyncio.get_running_loop()
            begun = loop.time()
            for i in range(1, 7):
                await ear.until(lambda i=i: len(ear.connected) == i)  # type: ignore[misc]
                ear.connected[-1].close("go away")
            assert loop.time() - begun > (0.001 + 0.002 + 0.004 + 0.008 + 0.016) / 2
            task.cancel()
            await asyncio.wait([task])

    run(test())


@on_both_loops
def test_dialling_can_be_cancelled_at_any_moment(loop: str) -> None:
    async def test() -> None:
        ear = Ear()
        async with listening(ear) as server:
            for turns in range(12):
                client = Ear()
                task = asyncio.ensure_future(dialled(server, client))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not task.cancel():
                    continue
                await asyncio.wait([task])
                assert task.cancelled() or task.done()
                assert client.closed == []

    run(test(), loop)


def test_an_unknown_host_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def test() -> None:
        why = await refusal(Address("no-such-host", 1))
        assert why == "cannot connect to no-such-host:1: Name or service not known"

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    run(test(), "asyncio")


@on_both_loops
def test_an_invalid_host_name_is_reported(loop: str) -> None:
    async def test() -> None:
        address = Address("x" * 70, 0)
        assert (await refusal(address)).startswith(f"cannot connect to {address}: ")
        with pytest.raises(ServerError, match="cannot listen on xxx"):
            async with listening(Ear(), address=address):
                pass

    run(test(), loop)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5", ("127.0.0.1", 5)),
        ("host", ("host", 99)),
        ("host:", ("host", 99)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", 99)),
        ("::1", ("::1", 99)),
        ("host:0", ("host", 0)),
        ("5", ("127.0.0.1", 5)),
        ("*:5", ("::", 5)),
        ("*", ("::", 99)),
        ("[::]:5", ("::", 5)),
        ("::", ("::", 99)),
        ("2001:db8:0:0:0:0:0:1", ("2001:db8:0:0:0:0:0:1", 99)),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 99) == address
    assert parse_address(str(Address(*address)), 99) == address


@pytest.mark.parametrize(
    "text", ["", ":5", "host:x", "host:65536", "host:-1", "http://host:5", "host:5/v2", "::1:0", "65536"]
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="address"):
        parse_address(text, 99)
