"""The Clockwork scheduler: plans every device from measured times, and promises at arrival.

`scheduler` is the policy; `plan` is one device's future; `memory` decides what is loaded and evicted; `demand` counts
who asks for what; `config` names every constant.
"""

from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.scheduler import ClockworkScheduler

__all__ = ["ClockworkConfig", "ClockworkScheduler"]
