"""The arrival times of bytes that are read now."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from clockwork.clock import MonotonicClock, thread_time
from clockwork.net import arrival
from clockwork.net.arrival import DOUBTFUL, SLEPT, TICK, Arrivals, may_have_unread
from clockwork.units import MILLISECOND, Nanos

CLOCK = MonotonicClock()


def spin(nanos: Nanos) -> None:
    end = time.monotonic_ns() + nanos
    while time.monotonic_ns() < end:
        pass


def idle_time() -> Nanos:
    """Return a time that only passes while this thread neither runs nor waits for a core.

    In a virtual machine, it also passes while the host takes the core away. The thread then seems to sleep.
    """
    queued = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return CLOCK.now() - thread_time() - queued


class Reads(asyncio.Protocol):
    """Records when its bytes arrived and when they were read."""

    def __init__(self, arrivals: Arrivals, **options: bool) -> None:
        self._arrivals = arrivals
        self._options = options
        self.noted: asyncio.Queue[tuple[Nanos, Nanos]] = asyncio.Queue()
        self.idle: Nanos = 0  #: `idle_time` at the last read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.idle = idle_time()
        self.noted.put_nowait((self._arrivals.earliest_arrival(self.transport, **self._options), CLOCK.now()))


@asynccontextmanager
async def connected(**options: bool) -> AsyncIterator[tuple[socket.socket, Reads]]:
    """Return a context with a client and the reads of its connection.

    uvloop waits for open connections when it is closed, so a failed test must close them too.
    """
    loop = asyncio.get_running_loop()
    with closing(Arrivals(loop)) as arrivals:
        reads = Reads(arrivals, **options)
        server = await loop.create_server(lambda: reads, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.send(b"first")
            await reads.noted.get()
            server.close()
            try:
                yield client, reads
            finally:
                reads.transport.close()


async def long_turn(
    client: socket.socket, reads: Reads, before: Nanos, after: Nanos
) -> tuple[Nanos, Nanos, Nanos, Nanos]:
    """Let the loop work ``before`` and ``after`` bytes are sent, and then read them.

    Return when the turn began, and when the bytes were sent, arrived and were read. If the host takes the core away
    meanwhile, the thread seems to sleep, so the turn is repeated.
    """
    for _ in range(1000):
        client.send(b"x")
        await reads.noted.get()
        begin, idle = CLOCK.now(), reads.idle
        spin(before)
        sent = CLOCK.now()
        client.send(b"y")
        spin(after)
        arrived, read = await reads.noted.get()
        if reads.idle - idle < SLEPT // 2:
            break
    return begin, sent, arrived, read


class SetClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at: Nanos = 10**12

    def now(self) -> Nanos:
        return self.at


@pytest.mark.parametrize("waits", [False, True])
def test_a_thread_that_never_gave_up_its_core_has_not_slept(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    """The kernel counts neither interrupts nor the time of other virtual machines as the thread's processor time."""
    yields = 0
    monkeypatch.setattr(arrival, "thread_time", lambda: 0)
    monkeypatch.setattr(arrival, "thread_yields", lambda: yields)
    monkeypatch.setattr(Arrivals, "_run_queue", lambda self: 0)

    async def test() -> None:
        nonlocal yields
        clock = SetClock()
        with closing(Arrivals(asyncio.get_running_loop(), clock)) as arrivals:
            polled = clock.at = clock.at + MILLISECOND
            arrivals.earliest_arrival()
            await asyncio.sleep(0)
            turn = arrivals.turn
            clock.at += DOUBTFUL // 2
            yields += waits
            assert arrivals.earliest_arrival() == (clock.at if waits else polled)
            assert arrivals.follows(turn) is not waits

    uvloop.run(test())


def test_bytes_that_wake_the_loop_count_from_now() -> None:
    async def test() -> None:
        async with connected() as (client, reads):
            asyncio.get_running_loop().call_later(0.02, client.send, b"x")
            arrived, read = await reads.noted.get()
            assert read - arrived < 100 * MILLISECOND

    uvloop.run(test())


def test_bytes_that_arrive_while_the_loop_works_count_from_its_last_poll() -> None:
    async def test() -> None:
        async with connected() as (client, reads):
            polled, _, arrived, read = await long_turn(client, reads, 0, DOUBTFUL // 2)
            assert arrived <= polled
            assert read - arrived >= DOUBTFUL // 2

    uvloop.run(test())


def test_after_a_long_turn_one_message_is_as_old_as_the_kernel_says() -> None:
    async def test() -> None:
        async with connected(one_message=True) as (client, reads):
            _, sent, arrived, _ = await long_turn(client, reads, 40 * MILLISECOND, 0)
            assert sent - 4 * TICK <= arrived <= sent + TICK

    uvloop.run(test())


def test_bytes_of_a_paused_connection_are_as_old_as_their_arrival() -> None:
    async def test() -> None:
        async with connected(one_message=True, paused=True) as (client, reads):
            reads.transport.pause_reading()
            sent = CLOCK.now()
            client.send(b"x")
            await asyncio.sleep(0.1)
            reads.transport.resume_reading()
            arrived, _ = await reads.noted.get()
            assert arrived <= sent + TICK

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


class Paused(asyncio.Transport):
    """A transport that reads nothing from its socket."""

    def __init__(self, **extra: Any) -> None:
        super().__init__(extra)


def test_unread_bytes_are_reported_and_doubt_counts_as_unread() -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        assert not may_have_unread(Paused(socket=ours))
        peer.send(b"bytes")
        assert may_have_unread(Paused(socket=ours))
        ours.recv(5)
        assert not may_have_unread(Paused(socket=ours))
        assert may_have_unread(Paused(socket=ours, sslcontext=object()))
    assert may_have_unread(Paused(socket=ours)), "the socket is closed"
    assert may_have_unread(Paused())
