"""A rolling update under load: each process ends on SIGTERM and starts again, one after the other."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from cli.processes import QUICK, Process, clockwork, save_dense
from cli.test_state_dir import free_address
from client.live import run
from clockwork.client import AsyncClient
from clockwork.errors import ClockworkError, ConnectionLostError
from clockwork.messages.link import ROLE_CLIENT, Hello
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.messages.tensors import spec
from clockwork.net.address import parse_address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.units import seconds
from clockwork.wire.codec import decode_response

WORKERS = ("w0", "w1")
INPUTS = (spec("x", "FP32", (1, 32)),)
PAUSE = 0.01
"""Seconds between two requests of one task, and between two attempts to connect."""


class Load:
    """Tasks that each send one request at a time, on one connection.

    A task sends a request again only if the response or the connection says that the server restarts.
    """

    def __init__(self, address: str) -> None:
        self.statuses: Counter[Status] = Counter()  #: final responses by status
        self.repeated = 0
        self.wrong = 0
        self.unexpected = 0  #: responses to requests that had a response, or that were never sent
        self._address = address
        self._connection: Connection | None = None
        self._waiting: dict[int, asyncio.Future[tuple[InferResponse, bytes]]] = {}
        self._last_id = 0
        self._outputs: dict[int, bytes] = {}  #: first output for each input

    async def run(self, tasks: int, during: Callable[[], Awaitable[None]]) -> None:
        """Send requests until ``during`` has ended."""
        script = asyncio.ensure_future(during())
        await asyncio.gather(script, *(self._send_all(number, script) for number in range(tasks)))
        if self._connection is not None:
            self._connection.close("the test has finished")

    async def _send_all(self, number: int, script: "asyncio.Future[None]") -> None:
        while not script.done():
            response, output = await self._answer(number)
            self.statuses[Status(response.status)] += 1
            if response.status == Status.SUCCESS:
                self.wrong += self._outputs.setdefault(number, output) != output
            await asyncio.sleep(PAUSE)

    async def _answer(self, number: int) -> tuple[InferResponse, bytes]:
        while True:
            with suppress(ConnectionLostError):
                response, output = await self._ask(np.full((1, 32), number, np.float32).tobytes())
                if response.status not in (Status.SHUTTING_DOWN, Status.INITIALIZING):
                    return response, output
            self.repeated += 1
            await asyncio.sleep(PAUSE)

    async def _ask(self, payload: bytes) -> tuple[InferResponse, bytes]:
        if self._connection is None:
            hello, to = Hello(ROLE_CLIENT, "", "test"), parse_address(self._address, 0)
            connection = await dial(
                to, hello, decode=decode_response, on_message=self._received, on_closed=self._closed
            )
            if self._connection is None:
                self._connection = connection
            else:  # another task was faster
                connection.close("there is another connection")
        self._last_id += 1
        future: asyncio.Future[tuple[InferResponse, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = future
        self._connection.send(InferRequest(self._last_id, "dense", INPUTS, seconds(20)), [payload])
        return await future

    def _received(self, connection: Connection, message: Any, payload: Any) -> None:
        future = self._waiting.pop(message.id, None)
        if future is None:
            self.unexpected += 1
        else:
            future.set_result((message, bytes(payload)))

    def _closed(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(ConnectionLostError(reason))


async def until_served_by_all(address: str) -> None:
    """Wait until both workers serve."""
    while True:
        with suppress(ClockworkError, OSError):
            async with AsyncClient(address, connect_timeout=5) as client:
                status = await client.status()
                if status.ready and {worker.id for worker in status.workers if worker.ready} == set(WORKERS):
                    return
        await asyncio.sleep(PAUSE)


def test_no_request_fails_during_a_rolling_update(tmp_path: Path) -> None:
    save_dense(tmp_path / "models" / "dense.onnx")
    address, workers_at = free_address(), free_address()
    addresses = (f"--listen={address}", f"--worker-listen={workers_at}", "--workers=2")
    controller = ("controller", "dense.onnx", *addresses, f"--state-dir={tmp_path / 'state'}", *QUICK)
    worker = ("worker", f"--controller={workers_at}", f"--model-root={tmp_path / 'models'}")
    commands = {"controller": controller, **{name: (*worker, f"--name={name}") for name in WORKERS}}
    load = Load(address)
    with ExitStack() as stack:
        running: dict[str, Process] = {}

        def start(name: str) -> None:
            running[name] = stack.enter_context(clockwork(*commands[name]))

        async def update() -> None:
            for name in (*WORKERS, "controller"):
                before = load.statuses.total()
                running[name].send(signal.SIGTERM)
                assert await asyncio.to_thread(running[name].ended) == 0
                assert not [line for line in running[name].err.seen if "Traceback" in line]
                start(name)
                await until_served_by_all(address)
                while load.statuses.total() < before + 50:  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(PAUSE)

        async def test() -> None:
            await until_served_by_all(address)
            await load.run(8, update)

        for name in commands:
            start(name)
        run(test())
    assert set(load.statuses) == {Status.SUCCESS}
    assert load.repeated > 0, "the controller was away for a while"
    assert (load.wrong, load.unexpected) == (0, 0)
