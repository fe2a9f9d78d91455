"""Every constant of the Clockwork scheduler, with its unit and its reason."""

from msgspec import Struct

from clockwork.units import MILLISECOND, SECOND, Nanos


class ClockworkConfig(Struct, frozen=True):
    """How far ahead and how carefully the scheduler plans.

    ``schedule_ahead``: an Infer is sent this long before its planned start; until then its batch can grow. The original
    uses 5 to 15 ms. Measured live on two cores: with 1 ms, and timers that count milliseconds, the device idles between
    batches; 5 ms gain nothing over 3 ms.
    ``network_delay``: the least delay in each direction, of an action to its worker and of a result back. The first
    estimate of a worker's delay is this value, or half of the time in which the worker reported its state, if that is
    longer.
    ``safety_margin`` and ``safety_share``: a promise is given only if the predicted completion is at least this long
    before the deadline: a constant, and a share of the work planned before it, because errors add up.
    ``verdict_delay``: requests that cannot be placed at once are judged together after this delay, so that a burst is
    planned as batches. No verdict takes longer.
    ``optimism``: factor of a model's arrival rate in the number of rows expected until a batch is sent. Time reserved
    for rows that do not come is given back; time that was not reserved is lost.
    ``efficiency_floor``: on a busy device a batch is begun only if it gets at least this share of the rows per second
    that the best batch for the model's demand would get. Otherwise small batches would take the time of large ones.
    ``window``: number of measurements that an estimate is made from (the original's 10).
    ``demand_window``: time constant of the decaying request rate of each model.
    ``choices``: number of devices considered for a request, if more are possible (power of choices).
    ``evictions_considered``: number of least recently used models among which the one with the least demand is evicted.
    ``loads_outstanding``: limit of LoadWeights sent to one device that have not ended.
    ``retry_horizon``: limit of the retry time of a refused request.
    ``preload``: load models into free memory before they are requested.
    ``min_residency``: a model that was requested within this time is evicted in favour of a model whose requests cannot
    be served yet only if its demand is less than half as high.
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
    min_residency: Nanos = 1 * SECOND
