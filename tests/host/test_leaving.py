"""A worker that leaves while it executes: it sends the result, refuses waiting actions, and ends."""

import asyncio
from pathlib import Path

from clockwork.clock import MonotonicClock
from clockwork.host.worker import WorkerConfig, WorkerHost, run_worker
from clockwork.messages.actions import Infer
from clockwork.messages.results import ErrorResult, InferResult
from clockwork.messages.status import Status
from clockwork.net.address import Address
from host.fake_runtime import FakeRuntime
from host.test_worker import Controller, inputs, root, run

__all__ = ["root"]


def test_a_leaving_worker_sends_running_results_and_refuses_waiting_actions(root: Path) -> None:
    async def scenario() -> None:
        runtime, controller = FakeRuntime(), Controller()
        await controller.listen()
        hosts: list[WorkerHost] = []
        config = WorkerConfig(root, controller.address, "w0")
        running = asyncio.ensure_future(run_worker(config, runtime, hosts.append))
        connection = await controller.met()
        await controller.warms("m")
        runtime.gates["execute"].close()
        controller.tell(Infer(3, 0, "m", inputs(1)), b"a")
        await asyncio.to_thread(runtime.gates["execute"].reached)
        controller.tell(Infer(4, 0, "m", inputs(1), earliest=MonotonicClock().now() + 10**12), b"b")
        leaving = asyncio.ensure_future(hosts[0].leave())
        refused, _ = await controller.results.get()
        assert isinstance(refused, ErrorResult)
        assert (refused.id, refused.status) == (4, Status.SHUTTING_DOWN)
        assert not leaving.done()
        runtime.gates["execute"].open()
        done, _ = await controller.results.get()
        assert isinstance(done, InferResult)
        assert done.id == 3
        await leaving
        assert not connection.closed.done()
        running.cancel()
        await asyncio.wait([running])
        await connection.closed
        await controller.close()

    run(scenario())


def test_a_worker_without_a_controller_leaves_at_once(root: Path) -> None:
    async def scenario() -> None:
        hosts: list[WorkerHost] = []
        config = WorkerConfig(root, Address("127.0.0.1", 1), "w0")
        running = asyncio.ensure_future(run_worker(config, FakeRuntime(), hosts.append))
        while not hosts:  # noqa: ASYNC110 - no event signals this
            await asyncio.sleep(0.001)
        await hosts[0].leave()
        running.cancel()
        await asyncio.wait([running])

    run(scenario())
