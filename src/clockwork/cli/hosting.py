"""A controller in this process, as ``serve`` and ``controller`` both run it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from clockwork.cli.caches import cache_directory
from clockwork.cli.lifecycle import Ending, until_stopped
from clockwork.controller.config import ProfilingConfig
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.descriptors import allow_connections
from clockwork.host.steady import steady
from clockwork.http.config import DEFAULT as HTTP
from clockwork.net.address import Address
from clockwork.net.server import MAX_CONNECTIONS
from clockwork.scheduling.base import Scheduler
from clockwork.units import Bytes, Nanos, seconds


def profile_directory(chosen: Path | None, none: bool) -> Path | None:
    """Where measured times are kept, if anywhere."""
    return None if none else chosen or cache_directory() / "profiles"


def profiling(max_batch: int, budget_seconds: float) -> ProfilingConfig:
    """What the options say about measuring."""
    return ProfilingConfig(max_batch_size=max_batch, budget=seconds(budget_seconds))


class FrontEnds(NamedTuple):
    """Where the standard protocols are served, if at all, and whether metrics are, with each model's latencies.

    ``max_json``: bytes of JSON in one request or response over HTTP.
    """

    http: Address | None
    grpc: Address | None
    metrics: bool = True
    model_histograms: bool = True
    max_json: Bytes = HTTP.max_json


def run_controller(
    config: ControllerHostConfig,
    scheduler: Scheduler,
    ends: FrontEnds,
    drain_limit: Nanos,
    *works: Callable[[ControllerHost], Coroutine[Any, Any, None]],
) -> None:
    """Run a controller, its front ends and ``works`` that it takes part in, until a signal asks to end; then it drains.

    Raises:
        ServerError: start-up fails, an address is taken, or one of the works fails.
    """
    ending = Ending()

    async def work() -> None:
        async with listening(config, scheduler) as host, front_ends(host, ends):
            ending.first(partial(host.drain, drain_limit))
            await together(host.wait(), *(it(host) for it in works))

    uvloop.run(until_stopped(work(), ending))


@asynccontextmanager
async def listening(config: ControllerHostConfig, scheduler: Scheduler) -> AsyncIterator[ControllerHost]:
    """A controller that listens, closed at the end; meanwhile this process is steady."""
    allow_connections(max(MAX_CONNECTIONS, HTTP.max_connections))
    with steady():
        host = ControllerHost(config, scheduler)
        try:
            await host.start()
            yield host
        finally:
            await host.close()


@asynccontextmanager
async def front_ends(host: ControllerHost, ends: FrontEnds) -> AsyncIterator[None]:
    """Serve the standard protocols, where an address is given; each says on stdout where it listens.

    Raises:
        ServerError: an address is taken, or may not be used.
    """
    async with AsyncExitStack() as stack:
        if ends.http is not None:
            from clockwork.http.config import HttpConfig
            from clockwork.http.server import serving_http

            config = HttpConfig(metrics=ends.metrics, model_histograms=ends.model_histograms, max_json=ends.max_json)
            where = await stack.enter_async_context(serving_http(host, ends.http, config))
            print(f"clockwork serves HTTP on {where}", flush=True)
        if ends.grpc is not None:
            os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # workers are exec'ed
            from clockwork.grpc_frontend import serve_grpc

            server = await stack.enter_async_context(serve_grpc(host, ends.grpc))
            print(f"clockwork serves gRPC on {server.address}", flush=True)
        yield


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Do all, until all are done or one fails; then the others are cancelled, and waited for."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
