"""How the parts of the worker's core say no to an action.

Rules of the file: a refusal never leaves the core as an exception; `clockwork.worker.core` turns it into the action's
`ErrorResult`. Whoever refuses changes nothing.
"""

from clockwork.messages.status import Status


class ActionRefusedError(Exception):
    """The action cannot be carried out as things are. ``status`` is the one of its `ErrorResult`."""

    def __init__(self, status: Status, message: str) -> None:
        """``message`` says what was asked, what was found, and the limit."""
        super().__init__(message)
        self.status = status
