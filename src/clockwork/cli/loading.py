"""Loads a model with a time limit, and reports the server's progress until the load ends."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final

from clockwork.cli.startup_hints import waits_for
from clockwork.client import AsyncClient
from clockwork.errors import ServerError
from clockwork.messages.requests import ServerStatus

REPORT_EVERY: Final = 2.0
"""Time in seconds between two queries of the server's status."""


async def load_with_progress(client: AsyncClient, loading: Coroutine[Any, Any, list[str]], timeout: float) -> list[str]:
    """Await a load, and return its result. Write the server's progress to stderr whenever it changes.

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
                raise ServerError(f"the load has not ended after {timeout:g} s (--timeout); {_doing(server)}")
            if _doing(server) != line:
                line = _doing(server)
                print(line, file=sys.stderr, flush=True)
    finally:
        load.cancel()


def _doing(server: ServerStatus) -> str:
    hint = waits_for(server.stage, server.progress)
    if hint:
        return f"{server.stage}: the server {hint}"
    return f"{server.stage}: {server.progress.done} of {server.progress.total} models"
