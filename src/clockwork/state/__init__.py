"""What the controller knows: `ClockworkState` > `WorkerState` > `GPUState`, the models, and the pending requests.

Rules of the room: a scheduler reads all of it; it changes a device's state only by making actions with `GPUState`'s
methods, which take and free pages in the same breath. The controller settles results. So the picture is right by
construction, whatever a scheduler does.
"""

from clockwork.state.fleet import ClockworkState, WorkerState
from clockwork.state.gpu import GPUState, Residency
from clockwork.state.model import ModelState
from clockwork.state.prediction import Predictions
from clockwork.state.request import PendingRequest

__all__ = ["ClockworkState", "GPUState", "ModelState", "PendingRequest", "Predictions", "Residency", "WorkerState"]
