"""Delays responses to clients that guess tokens, and logs their attempts.

A response to a request with an unknown token is delayed. The delay grows with the number of responses that are already
being delayed. So an HTTP connection can try about 10 tokens per second, and a gRPC connection with many calls about 100
tokens per second.
"""

import asyncio
import logging
from typing import Final

from clockwork.host.log_events import event_fields

DELAY: Final = 0.1
"""Delay in seconds if no other response is being delayed."""

PER_DELAYED: Final = 0.01
"""Additional delay in seconds for each response that is already being delayed."""

MAX_DELAY: Final = 5.0
"""Longest delay in seconds."""

LOG_EVERY: Final = 60.0
"""Shortest time in seconds between two log lines about unknown tokens."""

log = logging.getLogger("clockwork.access")


class TokenBrake:
    """Delays responses to requests with an unknown token. All requests must be on one event loop."""

    def __init__(self) -> None:
        self._delayed = 0
        self._unlogged = 0
        self._last_line = float("-inf")

    async def delay(self) -> None:
        """Wait before the response to a request with an unknown token, and count the request for the log."""
        self._unlogged += 1
        now = asyncio.get_running_loop().time()
        if now - self._last_line >= LOG_EVERY:
            extra = event_fields("unknown_tokens", count=self._unlogged)
            log.warning("refused requests with an unknown bearer token: %d", self._unlogged, extra=extra)
            self._last_line, self._unlogged = now, 0
        self._delayed += 1
        try:
            await asyncio.sleep(min(DELAY + PER_DELAYED * self._delayed, MAX_DELAY))
        finally:
            self._delayed -= 1
