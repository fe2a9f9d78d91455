"""The controller's view of workers, devices, models and pending requests.

A `ClockworkState` contains `WorkerState` objects, which contain `GPUState` objects. A scheduler may read all of these
objects. To make an action, a scheduler calls a method of `GPUState`, which takes or frees pages at once. The controller
updates the state with the results of actions. So a scheduler cannot make the view of a device's memory wrong.
"""

from clockwork.state.fleet import ClockworkState, WorkerState
from clockwork.state.gpu import GPUState
from clockwork.state.model import ModelState
from clockwork.state.planned import PlannedWork
from clockwork.state.prediction import Predictions
from clockwork.state.request import PendingRequest
from clockwork.state.residency import Residency
from clockwork.state.sent import SentAction
from clockwork.state.verdict import Verdict

__all__ = [
    "ClockworkState",
    "GPUState",
    "ModelState",
    "PendingRequest",
    "PlannedWork",
    "Predictions",
    "Residency",
    "SentAction",
    "Verdict",
    "WorkerState",
]
