"""The options of ``serve`` and ``controller`` that limit what clients may use."""

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cli.processes import save_dense, serve
from clockwork import log_writer
from clockwork.cli import controller_process, run, worker_process
from clockwork.units import KIB, MIB, SECOND

OPTIONS = (
    "--max-json=1MiB",
    "--max-body=2MiB",
    "--max-head=3KiB",
    "--max-connections=4",
    "--max-pending=5",
    "--max-pending-size=6MiB",
    "--max-client-pending=7",
    "--max-client-size=8MiB",
    "--max-loads=9",
    "--max-slo=10s",
    "--http-keep-alive=11s",
    "--grpc-keep-alive=12s",
)

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
HEADER = b"X-Long: " + b"x" * 2000


@pytest.mark.parametrize("command", ["serve", "controller"])
def test_every_limit_that_an_option_sets_reaches_the_server(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(log_writer, "install", lambda notice: None)  # pytest's own streams stay
    monkeypatch.setattr(worker_process, "run_with_worker", lambda *given, **settings: seen.extend(given))
    monkeypatch.setattr(controller_process, "run_controller", lambda *given, **settings: seen.extend(given))
    models = (str(save_dense(tmp_path / "dense.onnx")),) if command == "serve" else ()
    assert run([command, *models, "--no-profile-cache", *OPTIONS]) == 0
    config, ends = seen[0], next(one for one in seen if isinstance(one, controller_process.FrontEnds))
    http = ends.http_config
    assert (http.max_json, http.max_body, http.max_head, http.keep_alive) == (MIB, 2 * MIB, 3 * KIB, 11)
    assert (config.max_connections, ends.max_connections, ends.grpc_keep_alive) == (4, 4, 12 * SECOND)
    limits = config.controller
    assert (limits.max_pending, limits.max_pending_bytes) == (5, 6 * MIB)
    assert (limits.max_client_pending, limits.max_client_bytes) == (7, 8 * MIB)
    assert (limits.max_loads, limits.max_slo) == (9, 10 * SECOND)


def test_limits_of_connections_and_heads_hold_in_a_running_server(tmp_path: Path) -> None:
    model = str(save_dense(tmp_path / "dense.onnx"))
    with serve(
        model,
        "--http=127.0.0.1:0",
        "--grpc=127.0.0.1:0",
        "--max-head=1KiB",
        "--max-connections=1",
        "--http-keep-alive=1s",
    ) as server:
        native = _parts(server.address())
        web = _parts(server.out.wait_for(r"serves HTTP on (\S+)$")[1])
        with socket.create_connection(web, 30) as first:
            first.sendall(REQUEST)
            assert b"connection limit reached (1)" in _response(web, b"")
            first.sendall(b"\r\n")
            assert b'{"live":true}' in _all(first)  # the server closes the connection after a second of silence
        for head in (REQUEST + HEADER, REQUEST + HEADER + b"\r\n\r\n"):
            # the first attempts may be refused, until the server has noticed that the connection before is closed
            response = next(found for _ in range(1000) if b" 431 " in (found := _response(web, head)))
            assert b"exceeds the limit of 1024 bytes (raise it with --max-head)" in response
        with socket.create_connection(native, 30), socket.create_connection(native, 30) as refused:
            assert b"connection limit reached (1)" in _all(refused)


def _response(address: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(address, 30) as connection:
        connection.sendall(request)
        return _all(connection)


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _all(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):  # the server refused the connection before it had read
        while data := connection.recv(4096):
            received += data
    return received
