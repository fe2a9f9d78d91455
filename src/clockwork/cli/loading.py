"""Loads a model with a time limit, and reports the server's progress until the load ends."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final

from clockwork.cli.startup_hints import waits_for
from clockwork.client import AsyncClient
from clockwork.controller.catalog import VersionState
from clockwork.controller.stage import Stage
from clockwork.errors import ServerError
from clockwork.messages.faults import MAX_LISTED
from clockwork.messages.requests import ServerStatus

LOADING: Final = VersionState.LOADING.value

REPORT_EVERY: Final = 2.0
"""Time in seconds between two queries of the server's status."""


async def load_with_progress(
    client: AsyncClient, what: str, loading: Coroutine[Any, Any, list[str]], timeout: float
) -> list[str]:
    """Await the load of ``what``, and return its result. Write the server's progress to stderr whenever it changes.

    Raises:
        ServerError: the load has not ended after ``timeout`` seconds.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    load = asyncio.ensure_future(loading)
    line = ""
    try:
        while True:
            left = end - loop.time()
            done, _ = await asyncio.wait((load,), timeout=max(0, min(left, REPORT_EVERY)))
            if done:
                return load.result()
            server = await client.status()
            if left <= REPORT_EVERY:
                text = f"the load of {what} has not ended after {timeout:g} s (--timeout); "
                raise ServerError(text + _doing(server))
            if _doing(server) != line:
                line = _doing(server)
                print(line, file=sys.stderr, flush=True)
    finally:
        load.cancel()


def _doing(server: ServerStatus) -> str:
    hint = waits_for(server.stage, server.progress)
    if hint:
        return f"{server.stage}: the server {hint}"
    if server.stage == Stage.SERVING.value:
        loading = [f"{each.name}:{each.version}" for each in server.versions if each.state == LOADING][:MAX_LISTED]
        which = f" of {', '.join(loading)}" if loading else ""
        return f"{server.stage}: the server continues the load{which}; clockwork status shows the result"
    return f"{server.stage}: {server.progress.done} of {server.progress.total} models"
