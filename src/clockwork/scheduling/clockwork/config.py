"""Every constant of the Clockwork scheduler, with its unit and its reason."""

from msgspec import Struct

from clockwork.units import MILLISECOND, SECOND, Nanos


class ClockworkConfig(Struct, frozen=True):
    """How far ahead, how carefully, and by what measure the scheduler plans.

    ``schedule_ahead``: an Infer is sent this long before its planned start; until then its batch can grow. The original
    has 5 to 15 ms. Measured live on two cores: with 1 ms, and timers that count milliseconds, the device is left idle
    between batches; 5 ms gain nothing over 3.
    ``network_delay``: the least that an action takes to its worker and a result back, each way: assumed until it is
    measured, unless the worker took longer than that to tell its state.
    ``safety_margin`` and ``safety_share``: a promise is given only if the predicted completion is this long before the
    deadline: a constant, and a share of the work planned before it, for the noise that adds up.
    ``verdict_delay``: requests that cannot be placed at once are judged together after this long, so that a burst is
    seen as the batch that it is. Verdicts are given within it.
    ``optimism``: of the companions that a model's rate promises until a batch is sent, this share is reserved for: what
    turns out not to be needed is given back, what was not reserved is gone.
    ``efficiency_floor``: while a device is busy, a batch is begun only if it will use the device at least this well,
    relative to the best batch that the demand for the model would fill: small batches would take the time of large
    ones. ``window``: measurements that an estimate is made of (the original's 10).
    ``demand_window``: the time constant of the rates of models.
    ``choices``: devices looked at for a request among the many that would do (power of choices).
    ``evictions_considered``: least recently used models among which the least needed is evicted.
    ``loads_outstanding``: LoadWeights sent to one device and not yet ended.
    ``retry_horizon``: no client is told to come back later than this.
    ``preload``: load models before they are asked for, as long as memory is free.
    ``residency_least``: a model that was loaded for demand that could not be served yet is not evicted for the like of
    it any sooner, nor as long as it is asked for half as often as what would take its place.
    """

    schedule_ahead: Nanos = 3 * MILLISECOND
    network_delay: Nanos = MILLISECOND // 10
    safety_margin: Nanos = MILLISECOND // 5
    safety_share: float = 0.005
    verdict_delay: Nanos = MILLISECOND // 2
    optimism: float = 1.1
    efficiency_floor: float = 0.9
    window: int = 10
    demand_window: Nanos = 1 * SECOND
    choices: int = 4
    evictions_considered: int = 8
    loads_outstanding: int = 3
    retry_horizon: Nanos = 10 * SECOND
    preload: bool = True
    residency_least: Nanos = 1 * SECOND
