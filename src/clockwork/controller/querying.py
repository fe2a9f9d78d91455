"""Keeps the GetWorkerState actions that workers have not answered yet."""

from clockwork.controller.events import DropWorker
from clockwork.messages.actions import GetWorkerState
from clockwork.messages.commands import SendAction
from clockwork.state.gpu import ActionQueue
from clockwork.units import Nanos, show_duration


class StateQueries:
    """The outstanding GetWorkerState actions.

    A worker that takes too long to answer is dropped, because start-up waits for every connected worker.
    """

    def __init__(self, actions: ActionQueue, timeout: Nanos) -> None:
        """``actions`` numbers the actions. ``timeout`` is the time that a worker has to report its state."""
        self._actions = actions
        self._timeout = timeout
        self._sent: dict[int, tuple[str, Nanos]] = {}  #: action id -> worker, and time when the action was sent

    def __len__(self) -> int:
        """Number of workers that have not reported their state."""
        return len(self._sent)

    def ask(self, now: Nanos, worker_id: str) -> SendAction:
        """Request the state of a worker."""
        action = GetWorkerState(self._actions.next_id())
        self._sent[action.id] = (worker_id, now)
        return SendAction(worker_id, action)

    def answered(self, now: Nanos, worker_id: str, action_id: int) -> Nanos | None:
        """Return how long a worker took to report its state.

        Return None if no GetWorkerState action with this id is outstanding at the worker.
        """
        sent = self._sent.get(action_id)
        if sent is None or sent[0] != worker_id:
            return None
        del self._sent[action_id]
        return now - sent[1]

    def forget(self, worker_id: str) -> None:
        """Forget the GetWorkerState actions of a worker that is lost."""
        self._sent = {action_id: sent for action_id, sent in self._sent.items() if sent[0] != worker_id}

    def give_up(self, now: Nanos) -> list[DropWorker]:
        """Drop the workers that have not reported their state in time."""
        overdue = [action_id for action_id, (_, sent_at) in self._sent.items() if sent_at + self._timeout <= now]
        reason = f"the worker did not report its state within {show_duration(self._timeout)}"
        return [DropWorker(self._sent.pop(action_id)[0], reason) for action_id in overdue]

    def next_timeout(self) -> Nanos | None:
        """Return when the next GetWorkerState action times out, or None if no such action is outstanding."""
        if not self._sent:
            return None
        return min([sent_at for _, sent_at in self._sent.values()]) + self._timeout
