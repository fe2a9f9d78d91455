"""Workers that were asked for their state and have not answered yet."""

from clockwork.controller.events import DropWorker
from clockwork.messages.actions import GetWorkerState
from clockwork.messages.commands import SendAction
from clockwork.state.gpu import ActionIds
from clockwork.units import Nanos, show_duration


class Queries:
    """The outstanding GetWorkerState actions. A worker that takes too long is dropped, since it holds up all others."""

    def __init__(self, ids: ActionIds, timeout: Nanos) -> None:
        """``ids`` numbers the actions; ``timeout``: what a worker has to answer."""
        self._ids = ids
        self._timeout = timeout
        self._asked: dict[int, tuple[str, Nanos]] = {}  #: action -> worker, and when it was asked

    def __len__(self) -> int:
        """Number of workers that have not answered."""
        return len(self._asked)

    def ask(self, now: Nanos, worker_id: str) -> SendAction:
        """Ask a worker for its state."""
        action = GetWorkerState(self._ids.next())
        self._asked[action.id] = (worker_id, now)
        return SendAction(worker_id, action)

    def answered(self, now: Nanos, worker_id: str, action_id: int) -> Nanos | None:
        """Return how long a worker took to answer; None if this action is not a question to it."""
        asked = self._asked.get(action_id)
        if asked is None or asked[0] != worker_id:
            return None
        del self._asked[action_id]
        return now - asked[1]

    def forget(self, worker_id: str) -> None:
        """The worker is gone."""
        self._asked = {i: asked for i, asked in self._asked.items() if asked[0] != worker_id}

    def give_up(self, now: Nanos) -> list[DropWorker]:
        """Drop the workers that have not answered in time."""
        silent = [action_id for action_id, (_, asked) in self._asked.items() if asked + self._timeout <= now]
        reason = f"it did not tell its state within {show_duration(self._timeout)}"
        return [DropWorker(self._asked.pop(action_id)[0], reason) for action_id in silent]

    def next_timeout(self) -> Nanos | None:
        """Return when `give_up` has something to do next."""
        if not self._asked:
            return None
        return min([asked for _, asked in self._asked.values()]) + self._timeout
