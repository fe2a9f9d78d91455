"""A whole worker on loopback: connection, core and lanes, with a fake runtime and with a real one."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest
import uvloop

from clockwork.errors import DeviceLostError, InvalidRequestError, ServerError
from clockwork.host.affinity import allowed_cores
from clockwork.host.arena import Arena, ArenaView
from clockwork.host.task_runner import TaskRunner
from clockwork.host.worker import WorkerConfig, default_name, run_worker
from clockwork.messages.actions import Action, GetWorkerState, Infer, InferInput, LoadModelFromDisk, LoadWeights
from clockwork.messages.link import ROLE_WORKER
from clockwork.messages.results import (
    ErrorResult,
    GetWorkerStateResult,
    InferResult,
    LoadModelFromDiskResult,
    LoadWeightsResult,
)
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec, spec
from clockwork.net.address import Address
from clockwork.net.connection import Connection, LinkConfig
from clockwork.net.server import Server, listen
from clockwork.runtimes.base import Runtime
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.ort import onnxruntime
from clockwork.units import FOREVER, KIB, MIB, Bytes
from clockwork.wire.codec import decode_result
from host.fake_runtime import FakeRuntime
from onnx_graphs import dense, saved


def run(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test, 30))


class Controller:
    """The other end of the connection: sends actions and receives their results."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.results: asyncio.Queue[tuple[Any, bytes]] = asyncio.Queue()
        self.server: Server | None = None

    async def listen(self, address: Address = Address("127.0.0.1", 0), max_frame_bytes: Bytes = MIB) -> None:
        self.server = await listen(
            address,
            role=ROLE_WORKER,
            decode=decode_result,
            on_connected=self.connections.put_nowait,
            on_message=lambda connection, message, payload: self.results.put_nowait((message, bytes(payload))),
            on_closed=lambda connection, reason: None,
            config=LinkConfig(max_frame_bytes=max_frame_bytes),
        )

    @property
    def address(self) -> Address:
        assert self.server is not None
        return self.server.address

    async def close(self) -> None:
        assert self.server is not None
        await self.server.close("it ends")

    async def met(self) -> Connection:
        self.worker = await self.connections.get()
        return self.worker

    def tell(self, action: Action, *payload: bytes) -> None:
        self.worker.send(action, payload)

    async def asks(self, action: Action, *payload: bytes) -> tuple[Any, bytes]:
        self.tell(action, *payload)
        return await self.results.get()

    async def warms(self, path: str, name: str = "m") -> None:
        assert isinstance((await self.asks(LoadModelFromDisk(1, path, name)))[0], LoadModelFromDiskResult)
        assert isinstance((await self.asks(LoadWeights(2, 0, name)))[0], LoadWeightsResult)


@asynccontextmanager
async def a_worker(
    root: Path, runtime: Runtime, max_frame_bytes: Bytes = MIB, **config: Any
) -> AsyncIterator[Controller]:
    """A controller and a worker that is connected to it; the worker ends with the context."""
    controller = Controller()
    await controller.listen(max_frame_bytes=max_frame_bytes)
    worker = asyncio.ensure_future(run_worker(WorkerConfig(root, controller.address, "w0", **config), runtime))
    try:
        await controller.met()
        yield controller
    finally:
        for gate in runtime.gates.values() if isinstance(runtime, FakeRuntime) else ():
            gate.open()
        worker.cancel()
        await asyncio.wait([worker])
        await controller.close()
    assert worker.cancelled()
    assert not lane_threads()


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clockwork-")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "m").write_text("batches")
    return tmp_path


def inputs(*sizes: int, generated: bool = False) -> tuple[InferInput, ...]:
    return tuple(
        InferInput(i, 1, (spec("x", "UINT8", (1, size)),), generated=generated) for i, size in enumerate(sizes)
    )


def test_a_worker_greets_and_reports_its_state(root: Path) -> None:
    async def scenario() -> None:
        async with a_worker(root, FakeRuntime(), devices=2, cache_bytes=MIB, page_size=100 * KIB) as controller:
            assert controller.worker.peer_name == "w0"
            result, _ = await controller.asks(GetWorkerState(1))
            assert isinstance(result, GetWorkerStateResult)
            info = result.worker
            assert [(gpu.id, gpu.kind, gpu.total_pages) for gpu in info.gpus] == [
                (0, "fake device", 10),
                (1, "fake device", 10),
            ]
            assert info.page_size == 100 * KIB

    run(scenario())


def test_payloads_reach_their_requests_and_come_back(root: Path) -> None:
    async def scenario() -> None:
        async with a_worker(root, FakeRuntime()) as controller:
            await controller.warms("m")
            result, payload = await controller.asks(Infer(3, 0, "m", inputs(4, 6)), b"abcd", b"123456")
            assert isinstance(result, InferResult)
            assert [output.request_id for output in result.outputs] == [0, 1]
            assert payload == b"dcba" + b"654321"
            _, payload = await controller.asks(Infer(4, 0, "m", inputs(3, generated=True)))
            assert payload == bytes(3)

    run(scenario())


def test_a_payload_that_does_not_fit_its_specs_ends_the_connection(root: Path) -> None:
    async def scenario() -> None:
        async with a_worker(root, FakeRuntime()) as controller:
            worker = controller.worker
            controller.tell(Infer(1, 0, "m", inputs(4)), b"abc")
            assert "payload has 3 bytes, but the message describes 4" in await worker.closed
            await controller.met()

    run(scenario())


def test_payloads_in_shared_memory_are_read_from_the_arena(root: Path) -> None:
    async def scenario() -> None:
        arena = Arena(MIB)
        async with a_worker(root, FakeRuntime(), arena=ArenaView(os.dup(arena.for_worker))) as controller:
            await controller.warms("m")
            region = arena.allocate(4)
            region[:] = list(b"abcd")
            there, sent = inputs(4, 4)
            there = msgspec.structs.replace(there, arena_offset=arena.offset_of(region.data))
            _, payload = await controller.asks(Infer(3, 0, "m", (sent, there)), b"1234")
            assert payload == b"4321dcba"
            worker = controller.worker
            controller.tell(Infer(4, 0, "m", (msgspec.structs.replace(there, arena_offset=MIB - 3),)))
            assert "payload of 4 bytes at offset 1048573 is outside the shared memory of 1.0 MiB" in await worker.closed
            await controller.met()
        arena.close()

    run(scenario())


def test_a_worker_without_shared_memory_does_not_read_there(root: Path) -> None:
    async def scenario() -> None:
        async with a_worker(root, FakeRuntime()) as controller:
            worker = controller.worker
            controller.tell(
                Infer(1, 0, "m", tuple(msgspec.structs.replace(request, arena_offset=0) for request in inputs(4)))
            )
            assert "action refers to shared memory, but this worker shares none" in await worker.closed
            await controller.met()

    run(scenario())


def test_a_result_that_does_not_fit_a_frame_is_an_error(root: Path) -> None:
    async def scenario() -> None:
        async with a_worker(root, FakeRuntime(), max_frame_bytes=KIB) as controller:
            await controller.warms("m")
            result, _ = await controller.asks(Infer(3, 0, "m", inputs(5000, generated=True)))
            assert isinstance(result, ErrorResult)
            assert (result.id, result.action, result.status) == (3, "Infer", Status.ERROR)
            assert "cannot be sent" in result.message

    run(scenario())


def test_an_action_that_becomes_late_behind_a_running_one_is_answered_at_once(root: Path) -> None:
    async def scenario() -> None:
        runtime = FakeRuntime()
        async with a_worker(root, runtime) as controller:
            await controller.warms("m")
            runtime.gates["execute"].close()
            controller.tell(Infer(3, 0, "m", inputs(1)), b"a")
            await asyncio.to_thread(runtime.gates["execute"].reached)
            controller.tell(Infer(4, 0, "m", inputs(1), latest=FOREVER - 1), b"a")
            result, _ = await controller.asks(Infer(5, 0, "m", inputs(1), latest=1), b"a")
            assert isinstance(result, ErrorResult)
            assert (result.id, result.status) == (5, Status.COULD_NOT_START_IN_TIME)
            runtime.gates["execute"].open()
            assert [(await controller.results.get())[0].id for _ in range(2)] == [3, 4]

    run(scenario())


def test_a_controller_that_reconnects_finds_loaded_models_and_no_old_results(root: Path) -> None:
    async def scenario() -> None:
        runtime = FakeRuntime()
        async with a_worker(root, runtime) as controller:
            await controller.warms("m")
            runtime.gates["execute"].close()
            controller.tell(Infer(3, 0, "m", inputs(1)), b"a")
            controller.tell(Infer(4, 0, "m", inputs(1)), b"a")
            await asyncio.to_thread(runtime.gates["execute"].reached)
            address = controller.address
            await controller.close()
            await controller.listen(address)
            await controller.met()
            controller.tell(GetWorkerState(5))
            runtime.gates["execute"].open()
            result, _ = await controller.results.get()
            assert isinstance(result, GetWorkerStateResult)
            assert result.worker.gpus[0].models == ("m",)
            assert (await controller.asks(Infer(6, 0, "m", inputs(1)), b"a"))[0].id == 6

    run(scenario())


def test_a_worker_waits_for_its_controller_and_logs_it_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        controller = Controller()
        await controller.listen()
        address = controller.address
        await controller.close()
        config = WorkerConfig(root, address, "w0")
        worker = asyncio.ensure_future(run_worker(config, FakeRuntime()))
        while caplog.text.count("retrying until it succeeds") < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await controller.listen(address)
        await controller.met()
        await controller.asks(GetWorkerState(1))
        worker.cancel()
        await asyncio.wait([worker])
        await controller.close()

    with caplog.at_level(logging.INFO, "clockwork"):
        run(scenario())
    assert caplog.text.count("retrying until it succeeds") == 1
    assert "worker w0: fake 1; " in caplog.text
    assert "worker w0 is connected to the controller at 127.0.0.1" in caplog.text
    assert not lane_threads()


def test_a_worker_whose_lane_fails_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(self: TaskRunner, *task: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(TaskRunner, "run", breaks)

    async def scenario() -> None:
        controller = Controller()
        await controller.listen()
        worker = asyncio.ensure_future(run_worker(WorkerConfig(root, controller.address, "w0"), FakeRuntime()))
        await controller.met()
        controller.tell(LoadModelFromDisk(1, "m", "m"))
        with pytest.raises(ServerError, match="the worker failed: ZeroDivisionError"):
            await worker
        await controller.close()

    run(scenario())
    assert not lane_threads()


def test_a_worker_that_loses_its_device_ends_with_an_error(root: Path) -> None:
    (root / "m").write_text("lost-read")

    async def scenario() -> None:
        controller = Controller()
        await controller.listen()
        worker = asyncio.ensure_future(run_worker(WorkerConfig(root, controller.address, "w0"), FakeRuntime()))
        await controller.met()
        controller.tell(LoadModelFromDisk(1, "m", "m"))
        with pytest.raises(DeviceLostError, match=r"^the device is lost$"):
            await worker
        await controller.close()

    run(scenario())
    assert not lane_threads()


def test_the_process_settings_are_restored(root: Path) -> None:
    before = (allowed_cores(), sys.getswitchinterval())

    async def scenario() -> None:
        async with a_worker(root, FakeRuntime()):
            assert sys.getswitchinterval() < before[1]

    run(scenario())
    assert (allowed_cores(), sys.getswitchinterval()) == before


def test_a_worker_that_shares_its_cores_does_not_interrupt_its_devices(root: Path) -> None:
    seen: dict[str, int] = {}
    runtime = FakeRuntime()

    def look(name: str, words: object) -> None:
        seen[name] = os.sched_getscheduler(0)

    runtime.step = look  # type: ignore[method-assign]

    async def scenario() -> None:
        async with a_worker(root, runtime, devices=len(allowed_cores()), taken_cores=()) as controller:
            assert os.sched_getscheduler(0) == os.SCHED_BATCH
            await controller.warms("m")
            await controller.asks(Infer(3, 0, "m", inputs(4)), b"abcd")

    run(scenario())
    assert seen["execute"] == os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_model_root_must_exist(root: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidRequestError, match="is not a directory"):
            await run_worker(WorkerConfig(root / "m"), FakeRuntime())

    run(scenario())


def test_too_many_threads_per_core_are_refused(root: Path) -> None:
    assert WorkerConfig(root, threads_per_device=4 * len(allowed_cores())).pages() > 0
    with pytest.raises(InvalidRequestError, match="4096 threads per device are too many"):
        WorkerConfig(root, threads_per_device=4096).pages()


def test_two_workers_do_not_share_a_name_by_default() -> None:
    assert default_name().endswith(f"-{os.getpid()}")


@pytest.mark.parametrize("rows", [(1,), (1, 3)])
def test_a_real_model_computes_the_same_as_outside_a_worker(tmp_path: Path, rows: Sequence[int]) -> None:
    file = saved(dense(), tmp_path / "zoo" / "dense.onnx")
    chance = np.random.default_rng(1)
    arrays = [chance.standard_normal((n, 32), dtype=np.float32) for n in rows]
    expected = onnxruntime.InferenceSession(file).run(None, {"x": np.concatenate(arrays)})[0]

    async def scenario() -> None:
        async with a_worker(tmp_path, OnnxRuntime()) as controller:
            await controller.warms("zoo/dense.onnx")
            shares = tuple(InferInput(n, n, (spec("x", "FP32", (n, 32)),)) for n in rows)
            result, payload = await controller.asks(Infer(3, 0, "m", shares), *(array.tobytes() for array in arrays))
            assert isinstance(result, InferResult)
            assert [output.tensors for output in result.outputs] == [
                (TensorSpec("y", "FP32", (n, 5), 20 * n),) for n in rows
            ]
            np.testing.assert_allclose(np.frombuffer(payload, np.float32).reshape(-1, 5), expected, rtol=1e-4)
            wrong = InferInput(0, 1, (spec("x", "FP32", (1, 31)),))
            result, _ = await controller.asks(Infer(4, 0, "m", (wrong,)), bytes(124))
            assert isinstance(result, ErrorResult)
            assert result.status == Status.INVALID_INPUT

    run(scenario())
