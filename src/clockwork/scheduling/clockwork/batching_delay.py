"""Decides how long an idle device waits for more requests of a model before it starts a batch.

A batch of any size costs the server as much time as one request. The cost is about 0.3 ms in the controller and 0.3 ms
in the worker. While the server has time to spare, an idle device starts at once, because waiting would only add
latency. If the server is the bottleneck, an immediate start makes every batch a batch of one. The server then spends
its time on actions instead of requests. A measurement over gRPC on one core gave 1,000 requests/s with batches of one,
and 3,000 requests/s with a wait of 2 ms.

Theory of operation. The controller reports the share of the server's time that is in use. The *level* is the number of
rows that an idle device should wait for. The level rises while this share is above `BUSY`, and falls while the share is
below `CALM`. The number of rows to wait for also depends on recent waits. If the rows arrived during a wait, the number
doubles. If the wait ended before the rows arrived, the number is halved. So if a single client sends one request at a
time, the device waits only once in `PROBE`.

A constant, the arrival rate, and the slack of the request's deadline limit the wait. If a model's inference takes much
longer than an action costs, there is no wait.
"""

from typing import Final

from clockwork.scheduling.clockwork.plan import Plan, PlannedBatch
from clockwork.units import MICROSECOND, MILLISECOND, Nanos

BUSY: Final = 0.85
"""Share of the server's time in use above which the level rises."""

CALM: Final = 0.7
"""Share of the server's time in use below which the level falls."""

STALE: Final[Nanos] = 200 * MILLISECOND
"""Age from which a measurement of the server's load is ignored."""

MAX_LEVEL: Final = 64.0
"""Limit of the rows that an idle device waits for."""

MAX_WAIT: Final[Nanos] = 4 * MILLISECOND
"""Limit of the time that an idle device waits."""

SLACK_SHARE: Final = 0.25
"""Share of the slack before the deadline that a wait may take."""

ACTION_COST: Final[Nanos] = 500 * MICROSECOND
"""Time that an Infer of any size costs the controller and the worker together."""

PROBE: Final[Nanos] = 100 * MILLISECOND
"""If a device has waited for requests of a model in vain, it does not wait for that model again for this time."""


class BatchingDelay:
    """Decides how many rows of each model an idle device waits for."""

    def __init__(self) -> None:
        """Start with no batch waiting."""
        self._level = 1.0
        self._seen: Nanos = -1  #: time of the last measurement that was used
        self._expected: dict[str, tuple[int, Nanos]] = {}  #: model -> number of rows to expect, and since when

    def note_load(self, busy: float, at: Nanos) -> None:
        """Adjust the level to ``busy``, the share of the server's time in use at ``at``. Ignore a repeated ``at``."""
        if at == self._seen:
            return
        self._seen = at
        if busy > BUSY:
            self._level = min(MAX_LEVEL, self._level * 1.5)
        elif busy < CALM:
            self._level = max(1.0, self._level * 0.8)

    def wanted(self, now: Nanos, model: str, time: Nanos) -> int:
        """Return how many rows are worth waiting for, where 1 means a start at once.

        ``time`` is the time of one row.
        """
        if self._level < 2.0 or now - self._seen > STALE or time > 2 * ACTION_COST:
            return 1
        expected, at = self._expected.get(model, (2, now))
        if expected < 2 and now - at > PROBE:
            expected = 2
        return max(1, min(int(self._level), expected))

    def begin(self, now: Nanos, plan: Plan, wanted: int, rate: float) -> None:
        """Let the only batch of an idle device wait for ``wanted`` rows. The rows arrive at ``rate`` per nanosecond."""
        batch = plan.batches.first
        missing = min(wanted, batch.capacity) - batch.rows
        slack = batch.due - plan.device.first_start(now) - batch.reserved
        wait = min(MAX_WAIT, int(SLACK_SHARE * slack), int(2 * missing / max(rate, 1e-9)))
        if missing > 0 and wait > 0:
            batch.wanted, batch.wait_until = batch.rows + missing, now + wait

    def end(self, now: Nanos, batch: PlannedBatch) -> None:
        """End the batch's wait, if it waited. The rows that arrived decide how many rows to expect next time."""
        if batch.wanted:
            enough = batch.rows >= batch.wanted
            self._expected[batch.model.name] = (min(int(MAX_LEVEL), 2 * batch.rows) if enough else batch.rows, now)
            batch.wanted = 0
