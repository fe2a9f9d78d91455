"""What the controller knows: `ClockworkState` > `WorkerState` > `GPUState`, the models, and the pending requests.

A scheduler reads all of it. It changes the picture of a device only by making actions with methods of `GPUState`, which
take and free pages when they make the action. The controller settles the results. So no scheduler can make the picture
of a device's memory wrong.
"""

from clockwork.state.fleet import ClockworkState, WorkerState
from clockwork.state.gpu import GPUState
from clockwork.state.model import ModelState
from clockwork.state.prediction import Predictions
from clockwork.state.request import PendingRequest
from clockwork.state.residency import Residency

__all__ = ["ClockworkState", "GPUState", "ModelState", "PendingRequest", "Predictions", "Residency", "WorkerState"]
