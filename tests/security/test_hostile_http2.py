"""HTTP/2 clients that send what no library sends cannot use much memory or fill the log."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cli.processes import Process, save_dense, serve
from clockwork.grpc_frontend import health_pb2 as health
from clockwork.grpc_frontend.limits import MAX_METADATA_BYTES, MAX_STREAMS
from clockwork.units import KIB, MIB
from http2_raw import END_HEADERS, HEADERS, RST_STREAM, Http2, connections, first_headers, frame, later_headers

PATH = "/inference.GRPCInferenceService/ModelInfer"
CONNECTIONS = 8
FULL = MAX_METADATA_BYTES // 34 - 16  #: number of entries of 34 bytes that fit beside the required ones


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Process, str]]:
    with serve("--grpc=127.0.0.1:0", str(save_dense(tmp_path / "dense.onnx"))) as process:
        process.address()
        yield process, process.out.wait_for(r"^clockwork serves gRPC on (\S+)$")[1]


def resident(process: Process) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * KIB


def check_health(address: str) -> None:
    """Check that another client can still make a call; it is answered after the calls that were accepted before."""
    with grpc.insecure_channel(address) as channel:
        request = health.HealthCheckRequest().SerializeToString()
        answer = channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=30)
        assert health.HealthCheckResponse.FromString(answer).status == health.HealthCheckResponse.SERVING


def open_calls(connection: Http2, count: int, value: bytes, entries: int, *, reset: bool = False) -> None:
    """Open calls that never send their message."""
    for index in range(count):
        headers = later_headers(entries) if index else first_headers(PATH, b"x", value, entries)
        connection.send(frame(HEADERS, END_HEADERS, 2 * index + 1, headers))
        if reset:
            connection.send(frame(RST_STREAM, 0, 2 * index + 1, b"\0\0\0\x08"))
    connection.processed()


@pytest.mark.parametrize("reset", [False, True], ids=["open", "reset"])
def test_references_to_the_header_table_use_little_memory(server: tuple[Process, str], reset: bool) -> None:
    process, address = server
    check_health(address)
    before = resident(process)
    for _ in range(2):
        with connections(address, CONNECTIONS) as opened:
            for connection in opened:
                open_calls(connection, 4 * MAX_STREAMS, b"a", FULL, reset=reset)
            check_health(address)
            assert resident(process) - before < 200 * MIB
    check_health(address)


def test_metadata_that_is_not_text_is_not_logged(server: tuple[Process, str]) -> None:
    process, address = server
    check_health(address)
    lines = len(process.err.seen)
    with connections(address, CONNECTIONS) as opened:
        for connection in opened:
            open_calls(connection, MAX_STREAMS, b"\xff", FULL)
        check_health(address)
    assert not process.err.seen[lines:]


def test_metadata_beyond_the_limit_ends_the_call_and_not_the_connection(server: tuple[Process, str]) -> None:
    _, address = server
    with connections(address, 1) as (connection,):
        open_calls(connection, 1, b"a", 10_000)
        connection.send(frame(HEADERS, END_HEADERS, 3, later_headers(10_000)))
        connection.processed()
    check_health(address)
