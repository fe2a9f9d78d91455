"""Defines every constant of the Clockwork scheduler, with its unit and its reason."""

from msgspec import Struct

from clockwork.units import MILLISECOND, SECOND, Nanos


class ClockworkConfig(Struct, frozen=True):
    """Constants that decide how far ahead and how carefully the scheduler plans.

    - ``schedule_ahead``: an Infer is sent this long before its planned start. Until then, its batch can grow. The
      original uses 5 to 15 ms. In a live measurement on two cores, a value of 1 ms left the device idle between
      batches, because timers count milliseconds. A value of 5 ms was not better than 3 ms.
    - ``network_delay``: the least delay of an action on its way to a worker, and of a result on its way back. The first
      estimate of a worker's delay is this value, or half of the time that the worker took to report its state,
      whichever is longer.
    - ``safety_margin`` and ``safety_share``: a request is admitted only if enough time is left between its predicted
      completion and its deadline. This time is ``safety_margin``, plus the share ``safety_share`` of the work that is
      planned before the request, because the errors of predictions add up.
    - ``verdict_delay``: requests that cannot be planned at once wait for this time. Then the scheduler decides about
      all waiting requests together, so that a burst is planned as batches. No request waits longer than
      ``verdict_delay`` for its decision.
    - ``optimism``: factor by which a model's arrival rate is multiplied to predict how many rows arrive before a batch
      is sent. If fewer rows arrive, the reserved time becomes free again. If more rows arrive, there may be no time for
      them.
    - ``efficiency_floor``: a busy device begins a batch only if the batch's efficiency, in rows per second, is high
      enough. The limit is ``efficiency_floor`` times the highest efficiency that batches can reach at the model's
      demand. Without this limit, small batches would use time in which large batches could be executed.
    - ``window``: number of measurements from which an estimate is computed. The original uses 10.
    - ``demand_window``: time constant of the decaying request rate of each model.
    - ``choices``: largest number of devices that are considered for a request (power of choices).
    - ``evictions_considered``: number of least recently used models that may be evicted. The model with the least
      demand is evicted.
    - ``loads_outstanding``: limit of the LoadWeights actions of one device that have not ended.
    - ``retry_horizon``: limit of the retry time of a refused request.
    - ``preload``: whether to load models into free memory before they are requested.
    - ``min_residency``: a model that was requested within this time is protected. A model that is on no device can
      replace a protected model only if its demand is more than twice the protected model's demand. A model that is on
      a device can be loaded on a further device in place of a protected model only if more of its requests are refused.
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
