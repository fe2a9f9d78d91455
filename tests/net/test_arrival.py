"""The arrival times of bytes that are read now."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import uvloop

from clockwork.clock import MonotonicClock
from clockwork.net.arrival import DOUBTFUL, TICK, Arrivals
from clockwork.units import MILLISECOND, Nanos

CLOCK = MonotonicClock()


def spin(nanos: Nanos) -> None:
    end = time.monotonic_ns() + nanos
    while time.monotonic_ns() < end:
        pass


class Reads(asyncio.Protocol):
    """Records when its bytes arrived and when they were read."""

    def __init__(self, arrivals: Arrivals, **options: bool) -> None:
        self._arrivals = arrivals
        self._options = options
        self.noted: asyncio.Queue[tuple[Nanos, Nanos]] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.noted.put_nowait((self._arrivals.earliest_arrival(self._transport, **self._options), CLOCK.now()))


async def connected(arrivals: Arrivals, **options: bool) -> tuple[socket.socket, Reads]:
    loop = asyncio.get_running_loop()
    reads: Reads
    server = await loop.create_server(lambda: reads, "127.0.0.1", 0)
    reads = Reads(arrivals, **options)
    client = socket.create_connection(server.sockets[0].getsockname())
    client.send(b"first")
    await reads.noted.get()
    server.close()
    return client, reads


def test_bytes_that_wake_the_loop_count_from_now() -> None:
    async def test() -> None:
        arrivals = Arrivals(asyncio.get_running_loop())
        client, reads = await connected(arrivals)
        asyncio.get_running_loop().call_later(0.02, client.send, b"x")
        arrived, read = await reads.noted.get()
        assert read - arrived < 100 * MILLISECOND
        client.close()
        arrivals.close()

    uvloop.run(test())


def test_bytes_that_arrive_while_the_loop_works_count_from_its_last_poll() -> None:
    async def test() -> None:
        arrivals = Arrivals(asyncio.get_running_loop())
        client, reads = await connected(arrivals)
        client.send(b"x")
        await reads.noted.get()
        polled = CLOCK.now()
        client.send(b"y")
        spin(DOUBTFUL // 2)
        arrived, read = await reads.noted.get()
        assert arrived <= polled
        assert read - arrived >= DOUBTFUL // 2
        client.close()
        arrivals.close()

    uvloop.run(test())


def test_after_a_long_turn_one_message_is_as_old_as_the_kernel_says() -> None:
    async def test() -> None:
        arrivals = Arrivals(asyncio.get_running_loop())
        client, reads = await connected(arrivals, one_message=True)
        client.send(b"x")
        await reads.noted.get()
        spin(200 * MILLISECOND)
        sent = CLOCK.now()
        client.send(b"y")
        arrived, _ = await reads.noted.get()
        assert sent - 4 * TICK <= arrived <= sent + TICK
        client.close()
        arrivals.close()

    uvloop.run(test())


def test_bytes_of_a_paused_connection_are_as_old_as_their_arrival() -> None:
    async def test() -> None:
        arrivals = Arrivals(asyncio.get_running_loop())
        client, reads = await connected(arrivals, one_message=True, paused=True)
        transport: Any = reads._transport
        transport.pause_reading()
        sent = CLOCK.now()
        client.send(b"x")
        await asyncio.sleep(0.1)
        transport.resume_reading()
        arrived, _ = await reads.noted.get()
        assert arrived <= sent + TICK
        client.close()
        arrivals.close()

    uvloop.run(test())


STOPPED = """
import asyncio, sys, uvloop
from clockwork.clock import MonotonicClock
from clockwork.net.arrival import Arrivals

class Reads(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        arrived = arrivals.earliest_arrival(self.transport)
        if data != b"first":
            print(MonotonicClock().now() - arrived, flush=True)

async def main():
    global arrivals
    arrivals = Arrivals(asyncio.get_running_loop())
    server = await asyncio.get_running_loop().create_server(Reads, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

uvloop.run(main())
"""


def test_the_time_for_which_a_process_was_stopped_counts() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        client = socket.create_connection(("127.0.0.1", int(process.stdout.readline())))
        client.send(b"first")
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        client.send(b"second")
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGCONT)
        assert int(process.stdout.readline()) >= 300 * MILLISECOND - 2 * TICK
        client.close()
        process.stdin.close()
        process.wait(10)
