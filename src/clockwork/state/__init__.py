"""The controller's view of workers, devices, models and pending requests.

A `ClockworkState` contains `WorkerState` objects, which contain `GPUState` objects. A scheduler may read all of these.
To make an action, a scheduler calls a method of `GPUState`. This method takes or frees pages when it makes the action.
The controller applies the results of actions. So no scheduler can make the view of a device's memory wrong.
"""

from clockwork.state.fleet import ClockworkState, WorkerState
from clockwork.state.gpu import GPUState
from clockwork.state.model import ModelState
from clockwork.state.prediction import Predictions
from clockwork.state.request import PendingRequest
from clockwork.state.residency import Residency

__all__ = ["ClockworkState", "GPUState", "ModelState", "PendingRequest", "Predictions", "Residency", "WorkerState"]
