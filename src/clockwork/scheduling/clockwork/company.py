"""When an idle device waits for more requests of a model before it starts.

A batch costs the server as much as one request: some 0.3 ms in the controller and as much in the worker, whatever its
size. While the server has time to spare, an idle device starts at once: waiting would only add latency. When the
server is the bottleneck, starting at once makes every batch a batch of one, and the server spends its time on actions
instead of requests. (Measured over gRPC on one core: 1,000 requests/s with batches of one, 3,000 with a wait of 2 ms.)

Theory of operation. The controller tells how busy the server is. While that is more than `BUSY`, the *level* rises:
the batch that an idle device should wait for. While it is less than `CALM`, the level falls. A model's batch is also no
larger than the company that came lately: a wait in vain halves what is waited for, one that was enough doubles it. So
a single client that asks one question at a time is waited for once in `PROBE`, and no more.

Rules of the file: a wait is bounded by a constant, by the arrival rate, and by the slack of the request's deadline; a
model whose inference takes much longer than an action costs is not waited for.
"""

from typing import Final

from clockwork.scheduling.clockwork.plan import Batch, Plan
from clockwork.units import MICROSECOND, MILLISECOND, Nanos

BUSY: Final = 0.85
"""Share of the server's time in use above which the level rises."""

CALM: Final = 0.7
"""Share of the server's time in use below which the level falls."""

STALE: Final[Nanos] = 200 * MILLISECOND
"""How busy the server was longer ago does not count."""

MAX_LEVEL: Final = 64.0
"""Rows; no idle device waits for more."""

MAX_WAIT: Final[Nanos] = 4 * MILLISECOND
"""No idle device waits longer."""

SLACK_SHARE: Final = 0.25
"""Share of the time to spare before the deadline that a wait may take."""

ACTION_COST: Final[Nanos] = 500 * MICROSECOND
"""What an Infer costs the controller and the worker together, whatever its size: what a larger batch saves per row."""

PROBE: Final[Nanos] = 100 * MILLISECOND
"""A model for which no company came is tried again after this time."""


class Company:
    """How many requests an idle device waits for. Keyed by models that are served."""

    def __init__(self) -> None:
        """Wait for nothing."""
        self._level = 1.0
        self._seen: Nanos = -1  #: the moment of the last measurement that was taken into account
        self._expected: dict[str, tuple[int, Nanos]] = {}  #: model -> rows that came lately, and when that was

    def note_load(self, busy: float, at: Nanos) -> None:
        """``busy``: the share of the server's time in use, measured at ``at``. One measurement counts once."""
        if at == self._seen:
            return
        self._seen = at
        if busy > BUSY:
            self._level = min(MAX_LEVEL, self._level * 1.5)
        elif busy < CALM:
            self._level = max(1.0, self._level * 0.8)

    def wanted(self, now: Nanos, model: str, time: Nanos) -> int:
        """Return the rows worth waiting for; 1: start at once. ``time``: of an inference of one row."""
        if self._level < 2.0 or now - self._seen > STALE or time > 2 * ACTION_COST:
            return 1
        expected, at = self._expected.get(model, (2, now))
        if expected < 2 and now - at > PROBE:
            expected = 2
        return max(1, min(int(self._level), expected))

    def begin(self, now: Nanos, plan: Plan, wanted: int, rate: float) -> None:
        """Let the only batch of an idle device wait for ``wanted`` rows, which come at ``rate`` per nanosecond."""
        batch = plan.batches.first
        missing = min(wanted, batch.capacity) - batch.rows
        slack = batch.due - plan.first_start(now) - batch.reserved
        wait = min(MAX_WAIT, int(SLACK_SHARE * slack), int(2 * missing / max(rate, 1e-9)))
        if missing > 0 and wait > 0:
            batch.wanted, batch.wait_until = batch.rows + missing, now + wait

    def end(self, now: Nanos, batch: Batch) -> None:
        """The batch waits no longer; if it did, what came tells what to expect next time."""
        if batch.wanted:
            enough = batch.rows >= batch.wanted
            self._expected[batch.model.name] = (min(int(MAX_LEVEL), 2 * batch.rows) if enough else batch.rows, now)
            batch.wanted = 0
