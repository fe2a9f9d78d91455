"""Runs a controller in this process, with its ports, front ends and a display of its progress.

The commands ``serve`` and ``controller`` use this module.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from clockwork.cli import logs
from clockwork.cli.process import Shutdown, cache_directory, log_failure, run_together, run_until_signal
from clockwork.cli.startup_hints import waits_for
from clockwork.controller.config import ControllerConfig, ControlMode, ProfilingConfig, VerifyingConfig
from clockwork.controller.stage import Stage
from clockwork.host.controller import ControllerHost, ControllerHostConfig
from clockwork.host.log_events import event_fields
from clockwork.host.process_tuning import allow_connections, steady_timing
from clockwork.host.repository_polling import poll_repositories
from clockwork.http.config import DEFAULT as HTTP
from clockwork.http.config import HttpConfig
from clockwork.messages.requests import ListModelsRequest, ListModelsResponse
from clockwork.messages.requests import Progress as StageProgress
from clockwork.net.address import Address
from clockwork.net.server import MAX_CONNECTIONS
from clockwork.scheduling.base import Scheduler
from clockwork.units import SECOND, Nanos, as_seconds, seconds

POLL: Final = 0.1
"""Time in seconds between two updates of the progress display."""

LINE_EVERY: Final = 2.0
"""Time in seconds between two log lines about the progress of a stage."""

HINT_AFTER: Final = 3.0
"""Time in seconds without progress after which the log reports what the server is waiting for."""

log = logging.getLogger("clockwork.cli")


def profile_directory(chosen: Path | None, no_cache: bool) -> Path | None:
    """Return the directory for measured times, or None if they are not stored."""
    if no_cache or chosen is not None:
        return None if no_cache else chosen
    try:
        return cache_directory() / "profiles"
    except RuntimeError:
        logs.warn_at_start("measured times are not kept, because there is no home directory; set --profile-cache")
        return None


def controller_config(
    *,
    slo: Nanos,
    model_slos: dict[str, Nanos],
    max_batch: int,
    profile_seconds: float,
    unmeasured_cap: Nanos,
    verify_batches: float,
    explained: tuple[int, int],
    **settings: Any,
) -> ControllerConfig:
    """Return the configuration of a controller. ``settings`` contains values for other fields of `ControllerConfig`."""
    return ControllerConfig(
        default_slo=slo,
        model_slos=model_slos,
        profiling=ProfilingConfig(
            max_batch_size=max_batch, budget=seconds(profile_seconds), unmeasured_cap=unmeasured_cap
        ),
        verifying=VerifyingConfig(verify_batches),
        explain_requests=explained[0],
        explain_failures=explained[1],
        **settings,
    )


class FrontEnds(NamedTuple):
    """The addresses and the settings of the front ends. An address is None if the front end is disabled.

    - ``http_config``: settings of the HTTP front end, some of which apply to gRPC too
    - ``grpc_keep_alive``: time without traffic after which the server pings a gRPC connection
    - ``max_connections``: limit on the connections of each port for clients; None means each port's default
    """

    http: Address | None
    grpc: Address | None
    http_config: HttpConfig = HTTP
    grpc_keep_alive: Nanos = 60 * SECOND
    max_connections: int | None = None


def run_controller(
    config: ControllerHostConfig,
    scheduler: Scheduler,
    ends: FrontEnds,
    drain_limit: Nanos,
    *works: Callable[[ControllerHost], Coroutine[Any, Any, None]],
    on_listening: Callable[[Mapping[str, Address | None]], None] = lambda addresses: None,
) -> None:
    """Run a controller and its front ends until a signal arrives. Then drain the controller.

    ``works`` are coroutines that run at the same time and need the controller. ``on_listening`` is called with the
    addresses of all ports.

    Raises:
        ServerError: start-up fails, an address is in use, or one of the ``works`` fails.
    """
    shutdown = Shutdown()

    async def work() -> None:
        async with listening(config, scheduler) as host, front_ends(host, ends) as addresses:
            on_listening({"clients": host.client_address, "workers": host.worker_address, **addresses})
            shutdown.before_end(partial(host.drain, drain_limit))
            polls = [poll_repositories] if config.controller.control is ControlMode.POLL else []
            await run_together(host.wait(), *(start(host) for start in [*works, *polls]), on_failure=log_failure)

    uvloop.run(run_until_signal(work(), shutdown))


@asynccontextmanager
async def listening(config: ControllerHostConfig, scheduler: Scheduler) -> AsyncIterator[ControllerHost]:
    """Start a controller, and close it when the context ends. Garbage collection is restricted until then."""
    allow_connections(config.max_connections or max(MAX_CONNECTIONS, HTTP.max_connections))
    with steady_timing():
        host = ControllerHost(config, scheduler)
        try:
            await host.start()
            yield host
        finally:
            await host.close()


@asynccontextmanager
async def front_ends(host: ControllerHost, ends: FrontEnds) -> AsyncIterator[dict[str, Address]]:
    """Start the front ends that have an address, and print their addresses to stdout. Yield the addresses by name.

    Raises:
        ServerError: an address is in use or not permitted.
    """
    addresses = {}
    async with AsyncExitStack() as stack:
        if ends.http is not None:
            from clockwork.http.server import serving_http

            http_config = structs.replace(
                ends.http_config, max_connections=ends.max_connections or HTTP.max_connections
            )
            addresses["http"] = await stack.enter_async_context(serving_http(host, ends.http, http_config))
            print(f"clockwork serves HTTP on {addresses['http']}", flush=True)
        if ends.grpc is not None:
            os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # processes are forked only to start other programs
            from clockwork.grpc_frontend import serve_grpc
            from clockwork.grpc_frontend.config import DEFAULT, GrpcConfig

            settings = GrpcConfig(
                keep_alive=ends.grpc_keep_alive,
                ignore_timeout=ends.http_config.ignore_timeout,
                max_connections=ends.max_connections or DEFAULT.max_connections,
            )
            server = await stack.enter_async_context(serve_grpc(host, ends.grpc, settings))
            addresses["grpc"] = server.address
            print(f"clockwork serves gRPC on {server.address}", flush=True)
        yield addresses


# ------------------------------------------------------------------------------------------------ progress


async def show_startup(host: ControllerHost, console: Console, on_serving: Callable[[], None] = lambda: None) -> None:
    """Show the progress of start-up, as a bar on a terminal, or as log lines if stderr is not a terminal.

    When serving begins, print ``clockwork is serving N models on HOST:PORT`` to stdout, and call ``on_serving``.
    """
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        left = TextColumn("{task.fields[left]}")
        with Progress(*columns, TimeElapsedColumn(), left, console=console, transient=True) as bar:
            await _watch(host, _ProgressBar(bar))
    else:
        await _watch(host, _ProgressLines(asyncio.get_running_loop().time))
    client = host.local_client()
    response, _ = await client.ask(ListModelsRequest(client.next_id()))
    client.close()
    assert isinstance(response, ListModelsResponse)
    count = len(response.models)
    models = "1 model" if count == 1 else f"{count} models"
    extra = event_fields("serving", models=count, address=str(host.client_address))
    log.info("serving: %s", models, extra=extra)
    print(f"clockwork is serving {models} on {host.client_address}", flush=True)
    on_serving()


async def _watch(host: ControllerHost, show: Callable[[str, StageProgress], None]) -> None:
    clock = asyncio.get_running_loop().time
    said, since = "", clock()
    while True:
        stage, progress = host.progress()
        show(stage, progress)
        if stage == Stage.SERVING.value:
            return
        hint = waits_for(stage, progress)
        if hint == said:
            since = clock()
        elif clock() - since >= HINT_AFTER:
            said = hint
            if hint:
                log.info("%s: the server %s", stage, hint, extra=event_fields("waiting", stage=stage, reason=hint))
        await asyncio.sleep(POLL)


class _ProgressBar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, left="")
        self._stage = ""

    def __call__(self, stage: str, progress: StageProgress) -> None:
        if stage != self._stage:
            self._bar.reset(self._task)
            self._stage = stage
        self._bar.update(
            self._task,
            description=stage,
            completed=progress.done,
            total=progress.total or None,
            left=_time_left(progress),
        )


class _ProgressLines:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock() + LINE_EVERY
        self._last_line = ""

    def __call__(self, stage: str, progress: StageProgress) -> None:
        if not progress.total or self._clock() < self._next:
            return
        self._next = self._clock() + LINE_EVERY
        line = f"{stage}: {progress.done} of {progress.total} models"
        if line != self._last_line:
            extra = event_fields("progress", stage=stage, done=progress.done, total=progress.total)
            log.info("%s%s", line, f", {left}" if (left := _time_left(progress)) else "", extra=extra)
            self._last_line = line


def _time_left(progress: StageProgress) -> str:
    return "" if progress.remaining is None else f"about {as_seconds(progress.remaining):.0f} s left"
