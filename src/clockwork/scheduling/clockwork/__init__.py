"""Plans every device from measured times, and admits or refuses each request when it arrives.

| module | contents | |---|---| | `scheduler` | the policy: requests and results in, actions and answers out | |
`placing` | the choice of a device and a batch for each request | | `plan`, `timeline` | the planned batches of one
device, in order | | `device`, `times` | the actions that were sent to one device, and their durations | | `weights` |
which devices have a model's weights, loads and evictions | | `open_batches` | planned batches that more requests can
join | | `refusals` | the answers to refused requests, with retry times | | `batching_delay` | how long an idle device
waits for more requests | | `demand` | request rates of models | | `config` | every constant |
"""

from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.scheduler import ClockworkScheduler

__all__ = ["ClockworkConfig", "ClockworkScheduler"]
