"""The health checks of a worker, which Kubernetes probes."""

import asyncio
from contextlib import suppress

import pytest

from cli.processes import clockwork
from client.live import run
from clockwork.errors import ServerError
from clockwork.host.worker_health import MAX_CONNECTIONS, MAX_HEAD, serving_health
from clockwork.net.address import Address
from http_raw import connected

LOOPBACK = Address("127.0.0.1", 0)


def test_live_and_ready_are_reported() -> None:
    async def test() -> None:
        ready = [False]
        async with serving_health(LOOPBACK, lambda: ready[0]) as address:
            assert address is not None
            found = []
            for method, path in [
                ("GET", "/v2/health/live"),
                ("GET", "/v2/health/ready"),
                ("HEAD", "/v2/health/live"),
                ("POST", "/v2/health/live"),
                ("GET", "/metrics"),
            ]:
                async with connected(address) as peer:
                    peer.writer.write(f"{method} {path} HTTP/1.1\r\nHost: w\r\n\r\n".encode())
                    found.append((await peer.reader.read()).split(b" ")[1])
            assert found == [b"200", b"503", b"200", b"405", b"404"]
            ready[0] = True
            async with connected(address) as peer:
                assert (await peer.ask("GET", "/v2/health/ready")).json() == {"ready": True}

    run(test())


def test_long_heads_and_too_many_connections_are_refused() -> None:
    async def test() -> None:
        async with serving_health(LOOPBACK, lambda: True) as address:
            assert address is not None
            async with connected(address) as peer:
                peer.writer.write(b"GET /" + b"x" * MAX_HEAD)
                assert (await peer.reader.read()).startswith(b"HTTP/1.1 431 ")
            pairs = [await asyncio.open_connection(*address) for _ in range(MAX_CONNECTIONS)]
            reader, writer = await asyncio.open_connection(*address)
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            for _, other in [*pairs, (reader, writer)]:
                other.close()

    run(test())


def test_a_port_in_use_is_an_error() -> None:
    async def test() -> None:
        async with serving_health(LOOPBACK, lambda: True) as address:
            assert address is not None
            with pytest.raises(
                ServerError, match=r"cannot listen for health checks on .*; choose another with --health"
            ):
                async with serving_health(address, lambda: True):
                    pass

    run(test())


def test_a_worker_is_live_without_a_controller_and_ready_with_one() -> None:
    emulated = ("--emulate=1", "--profile=resnet50-v100")

    async def status(address: str, path: str) -> int:
        host, _, port = address.rpartition(":")
        async with connected(Address(host, int(port))) as peer:
            return (await peer.ask("GET", path)).status

    def asked(address: str, path: str) -> int:
        found: list[int] = []

        async def test() -> None:
            found.append(await status(address, path))

        run(test())
        return found[0]

    with clockwork("worker", "--controller=127.0.0.1:1", "--health=127.0.0.1:0", *emulated) as lonely:
        address = lonely.out.wait_for(r"^clockwork worker serves health checks on (\S+)$")[1]
        assert asked(address, "/v2/health/live") == 200
        assert asked(address, "/v2/health/ready") == 503
    with clockwork("controller", "--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=none") as controller:
        workers = controller.err.wait_for(r"for workers on (\S+)")[1]
        with clockwork("worker", f"--controller={workers}", "--health=127.0.0.1:0", *emulated) as worker:
            address = worker.out.wait_for(r"^clockwork worker serves health checks on (\S+)$")[1]
            worker.err.wait_for("is connected to the controller")
            assert asked(address, "/v2/health/ready") == 200
