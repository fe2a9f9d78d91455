"""The reasons why a request is refused before its deadline.

The code that refuses a request sets the reason. Refusals are counted by model and reason (`ModelCounts.refusals`).
Several reasons may have the same status.
"""

from enum import Enum


class RefusalReason(Enum):
    """The reason of a refusal. The value is the label ``reason`` of the metric ``clockwork_refusals_total``."""

    DEVICE_TOO_SLOW = "device_too_slow"  #: the fastest device takes longer than the SLO, even when it is idle
    DEVICE_BUSY = "device_busy"  #: the devices have too much planned work before the deadline
    WEIGHTS_NOT_LOADED = "weights_not_loaded"  #: the model's weights cannot be loaded to a device early enough
    WOULD_DELAY_OTHERS = "would_delay_others"  #: if this request was admitted, an earlier one would miss its deadline
    PROMISE_BROKEN = "promise_broken"  #: the request was admitted, but its plan failed later
    START_MISSED = "start_missed"  #: the request had no promise and could not be started in time
    NO_DEVICE = "no_device"  #: no responding worker can execute the model
    SERVER_FULL = "server_full"  #: the server reached its limit on pending requests or bytes
    CLIENT_FULL = "client_full"  #: the connection reached its limit on pending requests or bytes
    SERVER_OVERLOADED = "server_overloaded"  #: the controller itself is the bottleneck
    OTHER = "other"  #: the scheduler gives no reason
