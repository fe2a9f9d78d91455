"""TLS on all ports of a live controller with a scripted worker."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from certificates import Authority
from client.live import LOOPBACK, ScriptedWorker, controller, run
from clockwork.client import AsyncClient
from clockwork.errors import ConnectionLostError, InvalidRequestError
from clockwork.grpc_frontend import serve_grpc
from clockwork.host.controller import ControllerHost
from clockwork.http.config import HttpConfig
from clockwork.http.server import serving_http
from clockwork.net.address import Address
from clockwork.net.tls import ServerTls, client_tls, server_tls
from http_raw import Peer, eventually, row

ROW = np.ones((1, 4), np.float32)
TLS_HELLO = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00" * 20


class Ports(NamedTuple):
    host: ControllerHost
    http: Address
    grpc: Address

    @property
    def native(self) -> Address:
        return self.host.client_address


@asynccontextmanager
async def all_ports(
    tls: ServerTls | None, worker_tls: ServerTls | None = None, worker: ssl.SSLContext | None = None
) -> AsyncIterator[Ports]:
    guarded = {"tls": tls, "worker_tls": worker_tls}
    async with (
        controller(guarded=guarded) as host,
        serving_http(host, LOOPBACK) as http,
        serve_grpc(host, LOOPBACK) as server,
    ):
        await ScriptedWorker().connect(host, tls=worker)
        await eventually(lambda: host.progress()[0] == "serving")
        yield Ports(host, http, server.address)


async def ask_natively(ports: Ports, tls: ssl.SSLContext | None) -> None:
    async with AsyncClient(str(ports.native), tls=tls) as client:
        assert (await client.infer("m", {"x": ROW}))["y"].tolist() == [[2, 2, 2, 2]]


async def ask_over_http(ports: Ports, tls: ssl.SSLContext | None) -> None:
    reader, writer = await asyncio.open_connection(*ports.http, ssl=tls)
    try:
        answer = await Peer(reader, writer).ask("POST", "/v2/models/m/infer", row())
        assert answer.json()["outputs"][0]["data"] == [2, 2, 2, 2]
    finally:
        writer.close()


async def ask_over_grpc(ports: Ports, authority: Authority, shows: bool = False) -> None:
    pair = authority.signs("someone.example")
    own = (pair.key.read_bytes(), pair.certificate.read_bytes()) if shows else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *own)
    async with triton.InferenceServerClient(str(ports.grpc), ssl=True, creds=credentials) as client:
        data = triton.InferInput("x", [1, 4], "FP32")
        data.set_data_from_numpy(ROW)
        assert (await client.infer("m", [data])).as_numpy("y").tolist() == [[2, 2, 2, 2]]


def test_all_three_ports_for_clients_are_encrypted_with_one_certificate(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority(tmp_path)
        async with all_ports(authority.server()) as ports:
            await ask_natively(ports, authority.client())
            await ask_over_http(ports, authority.client())
            await ask_over_grpc(ports, authority)

    run(test())


def test_a_long_body_is_received_over_tls(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority(tmp_path)
        async with all_ports(authority.server()) as ports:
            reader, writer = await asyncio.open_connection(*ports.http, ssl=authority.client())
            peer = Peer(reader, writer)
            for size in (100, 100_000, 200_000, 100):
                answer = await peer.ask("POST", "/v2/models/m/infer", row() + b" " * size)
                assert answer.json()["outputs"][0]["data"] == [2, 2, 2, 2]
            answer = await peer.ask("POST", "/v2/models/m/infer", row() + b" " * 3_000_000)
            assert "the JSON without lists of numbers exceeds the limit of 256.0 KiB" in answer.json()["error"]
            answer = await peer.ask("POST", "/v2/models/m/infer", row())
            assert answer.json()["outputs"][0]["data"] == [2, 2, 2, 2]
            writer.close()

    run(test())


def test_a_long_grpc_message_is_received_over_tls(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority(tmp_path)
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        async with all_ports(authority.server()) as ports:
            async with triton.InferenceServerClient(str(ports.grpc), ssl=True, creds=credentials) as client:
                data = triton.InferInput("x", [750_000, 4], "FP32")
                data.set_data_from_numpy(np.ones((750_000, 4), np.float32))
                for _ in range(3):
                    with pytest.raises(triton.InferenceServerException, match="request has 750000 rows"):
                        await client.infer("m", [data])
            await ask_over_grpc(ports, authority)

    run(test())


def test_a_client_rejects_a_certificate_of_another_authority_or_name(tmp_path: Path) -> None:
    async def test() -> None:
        authority, other = Authority(tmp_path), Authority(tmp_path, "other")
        async with all_ports(authority.server("elsewhere.example")) as ports:
            with pytest.raises(ConnectionLostError, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
                await ask_natively(ports, other.client())
            with pytest.raises(ConnectionLostError, match=r"TLS failed|[Hh]ost|IP address mismatch"):
                await ask_natively(ports, authority.client())

    run(test())


def test_a_client_without_tls_gets_an_error_that_mentions_tls(tmp_path: Path) -> None:
    async def test() -> None:
        async with all_ports(Authority(tmp_path).server()) as ports:
            with pytest.raises(ConnectionLostError, match=r"without an answer; it may require TLS \(--tls-ca\)"):
                await ask_natively(ports, None)

    run(test())


def test_an_old_version_of_tls_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority(tmp_path)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(authority.file)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        async with all_ports(authority.server()) as ports:
            for address in (ports.native, ports.http, ports.grpc):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.open_connection(*address, ssl=old)

    run(test())


def test_a_port_that_requires_client_certificates_refuses_clients_without(tmp_path: Path) -> None:
    async def test() -> None:
        authority, other = Authority(tmp_path), Authority(tmp_path, "other")
        shown, unknown = authority.signs("someone.example"), other.signs("someone.example")
        async with all_ports(authority.server(client_ca=authority.file)) as ports:
            for pair in (None, unknown):
                with pytest.raises(ConnectionLostError):
                    await ask_natively(ports, authority.client(pair))
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await ask_over_http(ports, authority.client(pair))
            with pytest.raises(triton.InferenceServerException):
                await ask_over_grpc(ports, authority)
            await ask_natively(ports, authority.client(shown))
            await ask_over_http(ports, authority.client(shown))
            await ask_over_grpc(ports, authority, shows=True)

    run(test())


def test_controller_and_worker_both_present_a_certificate(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority(tmp_path)
        shown = authority.client(authority.signs("worker.example"))
        port = authority.server(client_ca=authority.file)
        async with all_ports(None, port, shown) as ports:
            await ask_natively(ports, None)
            for wrong in (None, authority.client()):
                with pytest.raises(ConnectionLostError):
                    await ScriptedWorker().connect(ports.host, "w1", tls=wrong)

    run(test())


@pytest.mark.parametrize("encrypted", [True, False], ids=["plain bytes on tls", "tls on plain"])
def test_plain_bytes_on_a_tls_port_and_tls_on_a_plain_port_are_refused(
    encrypted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_bytes = b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n" if encrypted else TLS_HELLO

    async def test() -> None:
        authority = Authority(tmp_path)
        tls, client = (authority.server(), authority.client()) if encrypted else (None, None)
        async with all_ports(tls) as ports:
            async with AsyncClient(str(ports.native), tls=client) as friend:
                for address in (ports.native, ports.http, ports.grpc):
                    reader, writer = await asyncio.open_connection(*address)
                    writer.write(wrong_bytes)
                    with suppress(ConnectionError):
                        await reader.read()  # until the server closes it
                    writer.close()
                await friend.infer("m", {"x": ROW})
            await ask_over_http(ports, client)

    with caplog.at_level(logging.WARNING):
        run(test())
    assert all(len(record.getMessage().splitlines()) == 1 and not record.exc_info for record in caplog.records)
    assert len(caplog.records) <= 3


def test_a_connection_without_a_handshake_is_closed(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority(tmp_path)
        async with (
            controller(guarded={"tls": authority.server()}) as host,
            serving_http(host, LOOPBACK, HttpConfig(handshake_timeout=0.05)) as http,
        ):
            reader, writer = await asyncio.open_connection(*http)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(test())


def test_an_error_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine, other = authority.signs("a.example"), authority.signs("b.example")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    absent = tmp_path / "absent.pem"
    with pytest.raises(InvalidRequestError, match=f"cannot read {absent}: No such file"):
        server_tls(absent, mine.key)
    with pytest.raises(InvalidRequestError, match=f"key {other.key} does not belong to certificate {mine[0]}"):
        server_tls(mine.certificate, other.key)
    with pytest.raises(InvalidRequestError, match=f"{nonsense} is not a PEM certificate"):
        server_tls(nonsense, mine.key)
    with pytest.raises(InvalidRequestError, match=f"{nonsense} contains no PEM certificate"):
        client_tls(nonsense)
