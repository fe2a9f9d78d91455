"""A server whose log is not read still responds over every protocol, and ends on SIGTERM."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from cli.processes import Lines, Process, clockwork
from client.live import run
from clockwork.client import AsyncClient
from clockwork.errors import ConnectionLostError
from clockwork.host.child_environment import GRACE
from clockwork.host.child_process import this_program
from clockwork.net.address import parse_address
from http_raw import connected

MODEL = "resnet50-v100"
IMAGE = np.ones((1, 3, 224, 224), np.float32)
SERVE = (
    "serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--grpc=127.0.0.1:0", "--no-profile-cache", "--slo=5s",
    "--log-level=debug", "--profile-seconds=0.02", "--max-batch=2", "--emulate=1", f"--profile={MODEL}",
    "--drain-limit=2s",
)  # fmt: skip


@contextmanager
def full_pipe() -> Iterator[int]:
    """Yield the write end of a full pipe that is never read."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    os.write(write, b"f" * 4096)
    os.set_blocking(write, True)
    try:
        yield write
    finally:
        os.close(read)
        os.close(write)


async def http_infer(process: Process) -> str:
    address = parse_address(process.out.wait_for(r"serves HTTP on (\S+)$")[1], 0)
    head = (
        b'{"inputs":[{"name":"data","datatype":"FP32","shape":[1,3,224,224],"parameters":{"binary_data_size":602112}}]}'
    )
    async with connected(address) as peer:
        live = await peer.ask("GET", "/v2/health/live")
        answer = await peer.ask(
            "POST", f"/v2/models/{MODEL}/infer", head + IMAGE.tobytes(), Inference_Header_Content_Length=len(head)
        )
        metrics = await peer.ask("GET", "/metrics")
        assert b"clockwork_log_lines_dropped_total" in metrics.body
        return f"http {live.status} {answer.status}"


async def grpc_infer(process: Process) -> str:
    client = triton.InferenceServerClient(process.out.wait_for(r"serves gRPC on (\S+)$")[1])
    data = triton.InferInput("data", list(IMAGE.shape), "FP32")
    data.set_data_from_numpy(IMAGE)
    live = await client.is_server_live()
    answer = await client.infer(MODEL, [data])
    await client.close()
    return f"grpc {live} {answer.as_numpy('prob').shape}"


async def native_infer(process: Process) -> str:
    async with AsyncClient(process.address()) as client:
        result = await client.infer(MODEL, {"data": IMAGE}, slo=5)
        return f"native {result['prob'].shape}"


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_a_server_whose_log_is_not_read_responds_and_ends(log_format: str) -> None:
    async def ask(process: Process) -> None:
        found: Counter[str] = Counter()
        for _ in range(10):
            for infer in (http_infer, grpc_infer, native_infer):
                found[await asyncio.wait_for(infer(process), 10)] += 1
        assert found == {"http 200 200": 10, "grpc True (1, 1000)": 10, "native (1, 1000)": 10}

    with full_pipe() as write, clockwork(*SERVE, f"--log-format={log_format}", stderr=write) as process:
        process.address()
        run(ask(process))
        begun = time.monotonic()
        process.send(signal.SIGTERM)
        assert process.ended() == 0
        assert time.monotonic() - begun < 2 + GRACE


def test_a_server_without_stdin_stdout_and_stderr_responds_and_ends() -> None:
    """The test chooses the address, because the server cannot print it."""
    address = free_address()
    command = [*this_program(), *SERVE[:1], f"--listen={address}", *SERVE[2:]]
    quoted = " ".join(f"'{word}'" for word in command)
    with subprocess.Popen(
        ["sh", "-c", f"exec {quoted} <&- >&- 2>&-"], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as popen:
        try:

            async def ask() -> None:
                client = await connected_once_it_serves(address)
                for _ in range(10):
                    result = await client.infer(MODEL, {"data": IMAGE}, slo=5)
                    assert result["prob"].shape == (1, 1000)
                await client.close()

            run(ask())
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(2 + GRACE) == 0
        finally:
            popen.kill()


CONTROLLER = ("controller", "--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=127.0.0.1:0")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (SERVE, "serving: 1 model"),
        (
            ("controller", "--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--http=127.0.0.1:0"),
            "listening for HTTP",
        ),
        (("worker", "--controller=127.0.0.1:1"), "retrying until it succeeds"),
    ],
    ids=["serve", "controller", "worker"],
)
def test_no_socket_or_file_gets_the_descriptor_of_a_closed_standard_stream(
    arguments: tuple[str, ...], line: str
) -> None:
    command = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *this_program(), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as popen:
        try:
            assert popen.stderr is not None
            Lines(popen.stderr).wait_for(line)
            assert {Path(f"/proc/{popen.pid}/fd/{number}").readlink() for number in (0, 1)} == {Path(os.devnull)}
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(2 + GRACE) == 0
        finally:
            popen.kill()


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


async def connected_once_it_serves(address: str) -> AsyncClient:
    for _ in range(200):
        client = AsyncClient(address)
        try:
            await client.connect()
            return client
        except ConnectionLostError:
            await asyncio.sleep(0.1)
    raise AssertionError("the server does not serve")
