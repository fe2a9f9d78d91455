"""Defines the refusal of an action, and makes the result of an action that failed.

`clockwork.worker.core` catches each refusal and converts it to the action's `ErrorResult`. Code must not change any
state before it refuses an action.
"""

from clockwork.messages.actions import Action
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status


class ActionRefusedError(Exception):
    """Raised if an action cannot be executed now. ``status`` is the status of the action's `ErrorResult`."""

    def __init__(self, status: Status, message: str) -> None:
        """``message`` states what was wrong and which limit applies."""
        super().__init__(message)
        self.status = status


def error_result(action: Action, status: Status, message: str) -> ErrorResult:
    """Return the result of an action that failed."""
    return ErrorResult(action.id, type(action).__name__, status, message)
