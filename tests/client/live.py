"""Runs a live controller on loopback, and a scripted worker. Both are in this process.

The scripted worker sends each result at once and executes no models. The output ``y`` of a model is ``2 * x``. It has
the type FP32 and four columns.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from clockwork.controller.config import ControllerConfig, LoadSpec, ProfilingConfig
from clockwork.host.arena import ArenaView
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.messages.actions import (
    ClearCache,
    EvictWeights,
    GetWorkerState,
    Infer,
    LoadModelFromDisk,
    LoadWeights,
    UnloadModel,
    model_names,
)
from clockwork.messages.link import ROLE_WORKER, Hello
from clockwork.messages.results import (
    ClearCacheResult,
    EvictWeightsResult,
    GetWorkerStateResult,
    GPUInfo,
    InferOutput,
    InferResult,
    LoadModelFromDiskResult,
    LoadWeightsResult,
    ModelInfo,
    Timing,
    UnloadModelResult,
    WorkerInfo,
)
from clockwork.messages.tensors import TensorInfo, spec
from clockwork.net.address import Address
from clockwork.net.connection import Connection
from clockwork.net.dial import dial
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.simple import SimpleScheduler
from clockwork.units import MIB, seconds
from clockwork.wire.codec import decode_action, input_sizes, split_payload

LOOPBACK = Address("127.0.0.1", 0)
QUICK = ProfilingConfig(max_batch_size=4, min_samples=2, max_samples=2, warmups=1)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run the coroutine of a test, for at most 90 s."""
    uvloop.run(asyncio.wait_for(test, 90))


class ScriptedWorker:
    """A worker that sends each result at once. Actions for which ``holds`` is true wait in ``held`` instead.

    ``window`` maps the controller's shared-memory arena.
    """

    def __init__(self, holds: Callable[[Any], bool] = lambda action: False, window: ArenaView | None = None) -> None:
        self.window = window
        self.holds = holds
        self.held: list[tuple[Any, Any]] = []
        self.seen: list[Any] = []
        self.something_came = asyncio.Event()
        self.connection: Connection | None = None

    async def connect(self, host: ControllerHost, name: str = "w0", token: str = "", tls: Any = None) -> None:
        self.connection = await dial(
            host.worker_address,
            Hello(ROLE_WORKER, name, "scripted", token, "" if self.window is None else self.window.name),
            decode=decode_action,
            on_message=self._on_message,
            on_closed=lambda connection, reason: None,
            tls=tls,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.something_came.clear()
            await self.something_came.wait()

    def _on_message(self, connection: Connection, action: Any, payload: Any) -> None:
        self.connection = connection
        self.seen.append(action)
        self.something_came.set()
        if self.holds(action):
            self.held.append((action, payload))
        else:
            self.answer(action, payload)

    def answer(self, action: Any, payload: Any = b"") -> None:
        assert self.connection is not None
        result, buffers = _result(action, payload, self.window)
        self.connection.send(result, buffers)


def _result(action: Any, payload: Any, window: ArenaView | None = None) -> tuple[Any, list[Any]]:
    timing = Timing(0, 1000, 1000)
    match action:
        case GetWorkerState():
            return GetWorkerStateResult(action.id, WorkerInfo(16 * MIB, (GPUInfo(0, "scripted", 100),))), []
        case LoadModelFromDisk():
            models = tuple(_model(name, action) for name in model_names(action.name, action.no_of_copies))
            return LoadModelFromDiskResult(action.id, models, timing), []
        case LoadWeights():
            return LoadWeightsResult(action.id, timing), []
        case EvictWeights():
            return EvictWeightsResult(action.id, timing), []
        case UnloadModel():
            return UnloadModelResult(action.id), []
        case ClearCache():
            return ClearCacheResult(action.id), []
        case Infer():
            outputs, buffers = [], []
            for share, part in zip(action.inputs, split_payload(payload, input_sizes(action)), strict=True):
                in_arena = window is not None and share.arena_offset >= 0
                data = window.view(share.arena_offset, share.payload_bytes) if window and in_arena else part
                doubled = 2 * np.frombuffer(data, np.float32).reshape(share.batch_size, -1)[:, :4]
                if share.generated:
                    doubled = np.zeros(4 * share.batch_size, np.float32)
                outputs.append(InferOutput(share.request_id, (spec("y", "FP32", (share.batch_size, 4)),)))
                buffers.append(doubled.tobytes())
            return InferResult(action.id, tuple(outputs), timing, timing, timing), buffers
    raise AssertionError(action)


def _model(name: str, action: LoadModelFromDisk) -> ModelInfo:
    return ModelInfo(
        name,
        action.path,
        f"digest of {action.path}",
        "scripted 1",
        (TensorInfo("x", "FP32", (-1, 1 << 20 if action.name == "wide" else 4)),),
        (TensorInfo("y", "FP32", (-1, 4)),),
        True,
        1000,
        1,
        action.name,
        action.no_of_copies,
    )


@asynccontextmanager
async def controller(
    scheduler: Scheduler | None = None,
    *,
    models: tuple[str, ...] = ("m.onnx",),
    profile_cache: Path | None = None,
    guarded: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[ControllerHost]:
    """Start a controller. Close it at the end."""
    config = ControllerConfig(
        models=tuple(LoadSpec(path) for path in models),
        profiling=QUICK,
        **{"default_slo": seconds(20), **settings},
    )
    host = ControllerHost(
        ControllerHostConfig(LOOPBACK, LOOPBACK, config, profile_cache, **guarded or {}),
        scheduler or SimpleScheduler(),
    )
    await host.start()
    try:
        yield host
    finally:
        await host.close()


@asynccontextmanager
async def serving(
    scheduler: Scheduler | None = None,
    *,
    holds: Callable[[Any], bool] = lambda action: False,
    **settings: Any,
) -> AsyncIterator[tuple[ControllerHost, ScriptedWorker]]:
    """Start a controller with a scripted worker."""
    async with controller(scheduler, **settings) as host:
        worker = ScriptedWorker(holds, None if host.arena is None else ArenaView(os.dup(host.arena.for_worker)))
        await worker.connect(host)
        yield host, worker
