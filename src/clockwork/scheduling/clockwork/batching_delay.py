"""Decides how long an idle device waits for more requests of a model before it starts a batch.

While the server has time to spare, an idle device starts at once, because waiting would only add latency. If the server
is the bottleneck, an immediate start makes every batch a batch of one, and each batch costs the server `ACTION_COST`. A
measurement over gRPC on one core gave 1,000 requests/s with batches of one, and 3,000 requests/s with a wait of 2 ms.

Theory of operation. The level of the `ServerLoad` is the number of rows that an idle device should wait for. Recent
waits limit the number of rows further. If the expected rows arrived during a wait, the number doubles. If they did not
arrive, the number becomes that of the rows that arrived. So if a single client sends one request at a time, the device
waits only once in `PROBE`.

Three values limit a wait: a constant, the arrival rate, and the slack before the request's deadline. If an inference of
the model takes much longer than `ACTION_COST`, the device does not wait.
"""

from typing import Final

from clockwork.scheduling.clockwork.plan import Plan, PlannedBatch
from clockwork.scheduling.clockwork.server_load import ACTION_COST, BOTTLENECK, MAX_LEVEL, ServerLoad
from clockwork.units import MILLISECOND, Nanos

MAX_WAIT: Final[Nanos] = 4 * MILLISECOND
"""Limit of the time that an idle device waits."""

SLACK_SHARE: Final = 0.25
"""Share of the slack before the deadline that a wait may take."""

PROBE: Final[Nanos] = 100 * MILLISECOND
"""If a device has waited in vain for requests of a model, it does not wait for requests of this model again during this
time.
"""


class BatchingDelay:
    """Decides how many rows of each model an idle device waits for."""

    def __init__(self, server: ServerLoad) -> None:
        """Start without waits. ``server`` states whether the server is the bottleneck."""
        self._server = server
        #: model -> number of rows to expect, and the end of the wait that determined this number
        self._expected: dict[str, tuple[int, Nanos]] = {}

    def wanted(self, now: Nanos, model: str, time: Nanos) -> int:
        """Return the number of rows that the device should wait for. 1 means that the device should start at once.

        ``time`` is the time of one row.
        """
        level = self._server.level(now)
        if level < BOTTLENECK or time > 2 * ACTION_COST:
            return 1
        expected, at = self._expected.get(model, (2, now))
        if expected < 2 and now - at > PROBE:
            expected = 2
        return max(1, min(int(level), expected))

    def begin(self, now: Nanos, plan: Plan, wanted: int, rate: float) -> None:
        """Let the only batch of an idle device wait for ``wanted`` rows. The rows arrive at ``rate`` per nanosecond."""
        batch = plan.batches.first
        missing = min(wanted, batch.capacity) - batch.rows
        slack = batch.due - plan.device.first_start(now) - batch.reserved
        wait = min(MAX_WAIT, int(SLACK_SHARE * slack), int(2 * missing / max(rate, 1e-9)))
        if missing > 0 and wait > 0:
            batch.wanted, batch.wait_until = batch.rows + missing, now + wait

    def end(self, now: Nanos, batch: PlannedBatch) -> None:
        """End the wait of a batch, if the batch was waiting.

        The number of rows that arrived determines the next wait.
        """
        if batch.wanted:
            enough = batch.rows >= batch.wanted
            self._expected[batch.model.name] = (min(int(MAX_LEVEL), 2 * batch.rows) if enough else batch.rows, now)
            batch.wanted = 0
