"""Decides when the files of models are sent to workers that lack them.

Theory of operation. A load whose worker lacks the file calls `Pushes.begin`. The host then finds and hashes the files
(`DescribeModel`). After that, the worker gets the action FetchModel, and requests the files from the host over a
connection of its own. The host limits the rate of all transfers together. When the worker has all files, or cannot get
them, the load continues.

At most one transfer per worker and `MAX_TRANSFERS` in total are under way. Other transfers wait in order. For each
worker, at most `MAX_AHEAD` models are described ahead, because the host keeps a limited number of descriptions. An
interrupted transfer continues when the worker has connected again, because the worker keeps the parts that it has
received.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from clockwork.controller.events import DescribeModel, ModelDescribed, Report, Respond
from clockwork.messages.actions import FetchModel
from clockwork.messages.commands import SendAction
from clockwork.messages.results import ErrorResult, FetchModelResult, Result
from clockwork.state.gpu import ActionQueue
from clockwork.units import Bytes, show_bytes

MAX_TRANSFERS: Final = 4
"""Largest number of transfers at the same time."""

MAX_AHEAD: Final = 4
"""Largest number of models of one worker that are being described, wait for their turn, or are being sent."""

PushCommand: TypeAlias = SendAction | Respond | Report | DescribeModel
Done: TypeAlias = Callable[[str, str], Sequence[PushCommand]]
"""Function that is called at the end of a transfer with the content, and with the reason if the transfer has failed."""


class Push:
    """A model's files that a worker needs."""

    def __init__(self, worker_id: str, path: str, name: str, done: Done) -> None:
        """``done`` is called at the end, unless the worker is lost before."""
        self.worker_id = worker_id
        self.path = path
        self.name = name
        self.done = done
        self.content = ""
        self.nbytes: Bytes = 0


class Pushes:
    """The transfers of model files to workers."""

    def __init__(self, actions: ActionQueue, enabled: bool, most: int = MAX_TRANSFERS) -> None:
        """``actions`` numbers the actions. ``enabled``: whether the controller sends files at all."""
        self._actions = actions
        self.enabled = enabled
        self._most = most
        self._queues: dict[str, deque[Push]] = {}  #: worker -> pushes that are not described yet
        self._active: dict[str, int] = {}  #: worker -> number of its other pushes
        self._asked: dict[tuple[str, str], list[Push]] = {}  #: path, name -> pushes that wait for `ModelDescribed`
        self._waiting: list[Push] = []  #: pushes that wait for their turn
        self._sent: dict[int, Push] = {}  #: action id -> transfer under way

    @property
    def pending(self) -> int:
        """Number of pushes that have not ended."""
        return sum([len(queue) for queue in self._queues.values()]) + sum(self._active.values())

    def begin(self, worker_id: str, path: str, name: str, done: Done) -> list[PushCommand]:
        """Send the files of a model to a worker that lacks them."""
        self._queues.setdefault(worker_id, deque()).append(Push(worker_id, path, name, done))
        return self._describe(worker_id)

    def described(self, event: ModelDescribed) -> list[PushCommand]:
        """Handle the host's description of a model's files."""
        commands: list[PushCommand] = []
        for push in self._asked.pop((event.path, event.name), []):
            if event.problem:
                commands += self._ended(push)
                commands += push.done("", event.problem)
                continue
            push.content, push.nbytes = event.content, event.nbytes
            self._waiting.append(push)
        return commands + self._pump()

    def owns(self, worker_id: str, action_id: int) -> bool:
        """Return whether the action is a transfer to this worker."""
        push = self._sent.get(action_id)
        return push is not None and push.worker_id == worker_id

    def result(self, worker_id: str, result: Result) -> list[PushCommand]:
        """Handle the result of an action for which `owns` is true."""
        push = self._sent.pop(result.id)
        commands = [*self._ended(push), *self._pump()]
        fields: dict[str, str | int] = {"worker": worker_id, "model": push.name, "path": push.path}
        if isinstance(result, FetchModelResult):
            fields["bytes"] = result.received
            text = f"worker {worker_id} has the files of {push.path} ({show_bytes(result.received)} were sent)"
            return [Report("INFO", text, "model_sent", fields), *commands, *push.done(push.content, "")]
        reason = f"it answered FetchModel with {type(result).__name__}"
        if isinstance(result, ErrorResult):
            reason = result.message
        return [*commands, *push.done("", reason)]

    def worker_lost(self, worker_id: str) -> list[PushCommand]:
        """Forget the transfers to a worker that is lost."""
        self._queues.pop(worker_id, None)
        self._active.pop(worker_id, None)
        for key, pushes in self._asked.items():
            self._asked[key] = [push for push in pushes if push.worker_id != worker_id]
        self._waiting = [push for push in self._waiting if push.worker_id != worker_id]
        self._sent = {i: push for i, push in self._sent.items() if push.worker_id != worker_id}
        return self._pump()

    def _ended(self, push: Push) -> list[PushCommand]:
        """Handle the end of a push that was described."""
        self._active[push.worker_id] -= 1
        return self._describe(push.worker_id)

    def _describe(self, worker_id: str) -> list[PushCommand]:
        """Request the descriptions of the models that come next for a worker."""
        commands: list[PushCommand] = []
        queue = self._queues.get(worker_id, deque())
        while queue and self._active.get(worker_id, 0) < MAX_AHEAD:
            push = queue.popleft()
            self._active[worker_id] = self._active.get(worker_id, 0) + 1
            key = (push.path, push.name)
            if key not in self._asked:
                commands.append(DescribeModel(push.path, push.name))
            self._asked.setdefault(key, []).append(push)
        return commands

    def _pump(self) -> list[PushCommand]:
        """Begin the transfers that may begin now."""
        commands: list[PushCommand] = []
        busy = {push.worker_id for push in self._sent.values()}
        for push in list(self._waiting):
            if len(self._sent) >= self._most:
                break
            if push.worker_id in busy:
                continue
            busy.add(push.worker_id)
            self._waiting.remove(push)
            action = FetchModel(self._actions.next_id(), push.content, push.nbytes)
            self._sent[action.id] = push
            fields: dict[str, str | int] = {
                "worker": push.worker_id,
                "model": push.name,
                "path": push.path,
                "bytes": push.nbytes,
            }
            text = f"worker {push.worker_id} lacks {push.path}; sending its files ({show_bytes(push.nbytes)})"
            commands += [Report("INFO", text, "model_lacking", fields), SendAction(push.worker_id, action)]
        return commands
