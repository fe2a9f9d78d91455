"""Why a request is refused before its deadline.

The reason is set where the request is refused and counted by model (`ModelCounts.refusals`). Two reasons can share one
status.
"""

from enum import Enum


class RefusalReason(Enum):
    """The reason of a refusal; the value is the label ``reason`` of ``clockwork_refusals_total``."""

    DEVICE_TOO_SLOW = "device_too_slow"  #: even an idle device needs longer than the SLO
    DEVICE_BUSY = "device_busy"  #: the planned work of the devices leaves no room before the deadline
    WEIGHTS_NOT_LOADED = "weights_not_loaded"  #: the weights would be on the device too late
    WOULD_DELAY_OTHERS = "would_delay_others"  #: an admitted request would miss its deadline
    PROMISE_BROKEN = "promise_broken"  #: the request was admitted, and an event broke the plan
    START_MISSED = "start_missed"  #: the device could not start a request without a promise in time
    NO_DEVICE = "no_device"  #: no connected worker that responds has a device for the model
    SERVER_FULL = "server_full"  #: the server's limit on pending requests or bytes
    CLIENT_FULL = "client_full"  #: one connection's limit on pending requests or bytes
    SERVER_OVERLOADED = "server_overloaded"  #: the controller itself is the bottleneck
    OTHER = "other"  #: the scheduler gives no reason
