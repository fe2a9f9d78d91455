"""Forms of addresses mean the same on every port: all addresses of the host, IPv4 and IPv6."""

import asyncio
import socket
from contextlib import suppress

import pytest
import uvloop

from client.live import LOOPBACK, run, serving
from clockwork.grpc_frontend import serve_grpc
from clockwork.http.server import serving_http
from clockwork.net import accepting
from clockwork.net.address import ANY_HOST, Address, parse_address


async def reached(port: int) -> set[str]:
    """Return the loopback addresses at which the port accepts connections."""
    found = set()
    for host in ("127.0.0.1", "::1"):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            found.add(host)
    return found


@pytest.mark.skipif(not accepting._has_ipv6(), reason="this host has no IPv6")
@pytest.mark.parametrize("text", ["*:0", "[::]:0"])
def test_every_address_includes_ipv4_and_ipv6_on_every_port(text: str) -> None:
    async def test() -> None:
        address = parse_address(text, 1)
        async with (
            serving() as (host, _),
            serving_http(host, address) as http,
            serve_grpc(host, address) as grpc,
        ):
            (native,) = await accepting.bind_sockets(address)  # the ports of clients and workers
            native.listen()
            with native:
                for port in (http.port, grpc.address.port, native.getsockname()[1]):
                    assert await reached(port) == {"127.0.0.1", "::1"}

    run(test())


def test_without_ipv6_every_address_is_every_ipv4_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_has_ipv6", lambda: False)

    async def test() -> None:
        (bound,) = await accepting.bind_sockets(Address(ANY_HOST, 0))
        with bound:
            assert bound.family == socket.AF_INET
            assert bound.getsockname()[0] == "0.0.0.0"

    run(test())


def test_a_grpc_port_in_use_is_found_on_every_address() -> None:
    async def test() -> None:
        async with serving() as (host, _), serve_grpc(host, LOOPBACK) as server:
            with pytest.raises(Exception, match="cannot listen for gRPC"):
                async with serve_grpc(host, Address(ANY_HOST, server.address.port)):
                    pass

    run(test())


def test_a_burst_of_connections_is_accepted_in_a_few_turns_of_the_loop() -> None:
    async def test() -> None:
        (bound,) = await accepting.bind_sockets(LOOPBACK)
        bound.listen(1000)
        clients = [socket.create_connection(bound.getsockname()) for _ in range(1000)]
        accepted: list[asyncio.Protocol] = []

        class Counts(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.append(self)

        servers = await accepting.accept_connections(bound, Counts, backlog=1000)
        turns = 0
        while len(accepted) < len(clients):
            await asyncio.sleep(0)
            turns += 1
        assert turns < len(clients) // accepting.DESCRIPTORS
        for client in clients:
            client.close()
        for server in servers:
            server.close()

    uvloop.run(test())
