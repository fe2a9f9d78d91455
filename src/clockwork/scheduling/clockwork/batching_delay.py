"""Decides how long an idle device waits for more requests of a model before it starts a batch.

A batch of any size costs the server as much time as one request. The cost is about 0.3 ms in the controller and 0.3 ms
in the worker. While the server has time to spare, an idle device starts at once, because waiting would only add
latency. If the server is the bottleneck, an immediate start makes every batch a batch of one. The server then spends
its time on actions instead of requests. A measurement over gRPC on one core gave 1,000 requests/s with batches of one,
and 3,000 requests/s with a wait of 2 ms.

Theory of operation. The controller reports the share of the server's time that is in use. The *level* is the number of
rows that an idle device should wait for. The level rises while this share is above `BUSY`, and falls while the share is
below `CALM`. Recent waits limit the number of rows further. If the expected rows arrived during a wait, the number
doubles. If they did not arrive, the number is halved. So if a single client sends one request at a time, the device
waits only once in `PROBE`.

Three values limit a wait: a constant, the arrival rate, and the slack before the request's deadline. If an inference of
the model takes much longer than `ACTION_COST`, the device does not wait.
"""

from typing import Final

from clockwork.scheduling.clockwork.plan import Plan, PlannedBatch
from clockwork.units import MICROSECOND, MILLISECOND, Nanos

BUSY: Final = 0.85
"""If more than this share of the server's time is in use, the level rises."""

CALM: Final = 0.7
"""If less than this share of the server's time is in use, the level falls."""

STALE: Final[Nanos] = 200 * MILLISECOND
"""Measurements of the server's load that are older than this time are ignored."""

MAX_LEVEL: Final = 64.0
"""Limit of the rows that an idle device waits for."""

MAX_WAIT: Final[Nanos] = 4 * MILLISECOND
"""Limit of the time that an idle device waits."""

SLACK_SHARE: Final = 0.25
"""Share of the slack before the deadline that a wait may take."""

ACTION_COST: Final[Nanos] = 500 * MICROSECOND
"""Time that an Infer of any size costs the controller and the worker together."""

PROBE: Final[Nanos] = 100 * MILLISECOND
"""If a device has waited in vain for requests of a model, it does not wait for requests of this model again during this
time.
"""


class BatchingDelay:
    """Decides how many rows of each model an idle device waits for."""

    def __init__(self) -> None:
        """Start with level 1, at which no device waits."""
        self._level = 1.0
        self._seen: Nanos = -1  #: time of the last load measurement to which the level was adjusted
        #: model -> number of rows to expect, and the end of the wait that determined this number
        self._expected: dict[str, tuple[int, Nanos]] = {}

    def note_load(self, busy: float, at: Nanos) -> None:
        """Adjust the level to the load that was measured at ``at``: ``busy`` is the share of the server's time in use.

        Do nothing if the level was already adjusted to this measurement.
        """
        if at == self._seen:
            return
        self._seen = at
        if busy > BUSY:
            self._level = min(MAX_LEVEL, self._level * 1.5)
        elif busy < CALM:
            self._level = max(1.0, self._level * 0.8)

    def wanted(self, now: Nanos, model: str, time: Nanos) -> int:
        """Return the number of rows that the device should wait for. 1 means that the device should start at once.

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
        """End the wait of a batch, if the batch was waiting.

        The number of rows that arrived determines the next wait.
        """
        if batch.wanted:
            enough = batch.rows >= batch.wanted
            self._expected[batch.model.name] = (min(int(MAX_LEVEL), 2 * batch.rows) if enough else batch.rows, now)
            batch.wanted = 0
