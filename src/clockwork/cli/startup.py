"""What an operator sees while a controller starts: a bar on a terminal, else lines; then one line on stdout."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from clockwork.controller.stage import Stage
from clockwork.host.controller import ControllerHost
from clockwork.host.telling import about
from clockwork.messages.requests import ListModelsRequest, ListModelsResponse
from clockwork.messages.requests import Progress as StageProgress
from clockwork.units import as_seconds

POLL: Final = 0.1
"""Seconds between two looks at how far it is."""

LINE_EVERY: Final = 2.0
"""Seconds between two lines about the progress within a stage."""

log = logging.getLogger("clockwork.cli")


async def show_startup(host: ControllerHost, console: Console) -> None:
    """Show how start-up goes; when serving begins, print ``clockwork is serving N models on HOST:PORT`` and return."""
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        left = TextColumn("{task.fields[left]}")
        with Progress(*columns, TimeElapsedColumn(), left, console=console, transient=True) as bar:
            await _watch(host, _Bar(bar))
    else:
        await _watch(host, _Lines(asyncio.get_running_loop().time))
    client = host.local_client()
    response, _ = await client.ask(ListModelsRequest(client.next_id()))
    client.close()
    assert isinstance(response, ListModelsResponse)
    count = len(response.models)
    extra = about("serving", models=count, address=str(host.client_address))
    log.info("serving: %d models", count, extra=extra)
    print(f"clockwork is serving {count} model{'' if count == 1 else 's'} on {host.client_address}", flush=True)


async def _watch(host: ControllerHost, show: Callable[[str, StageProgress], None]) -> None:
    while True:
        stage, progress = host.progress()
        show(stage, progress)
        if stage == Stage.SERVING.value:
            return
        await asyncio.sleep(POLL)


class _Bar:
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
            left=_show_left(progress),
        )


class _Lines:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock() + LINE_EVERY
        self._said = ""

    def __call__(self, stage: str, progress: StageProgress) -> None:
        if not progress.total or self._clock() < self._next:
            return
        self._next = self._clock() + LINE_EVERY
        text = f"{stage}: {progress.done} of {progress.total} models"
        if text != self._said:
            extra = about("progress", stage=stage, done=progress.done, total=progress.total)
            log.info("%s%s", text, f", {left}" if (left := _show_left(progress)) else "", extra=extra)
            self._said = text


def _show_left(progress: StageProgress) -> str:
    return "" if progress.remaining is None else f"about {as_seconds(progress.remaining):.0f} s left"
