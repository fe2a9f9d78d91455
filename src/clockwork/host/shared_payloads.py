"""Keeps payloads alive in the memory that the controller shares with a worker.

The controller keeps a reference to a payload while a worker may read it. The reference is kept until the worker has
answered the action or has disconnected. So the memory of the payload is not reused before then.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from clockwork.host.arena import Arena
from clockwork.messages.actions import Infer, InferInput


class SharedPayloads:
    """The payloads that workers may be reading, by worker and action."""

    def __init__(self, arena: Arena | None) -> None:
        """``arena`` is the shared memory, or None if there is none."""
        self._arena = arena
        self._in_use: dict[str, dict[int, list[Any]]] = {}

    def share(self, worker_id: str, action: Infer, payloads: Sequence[Any]) -> tuple[Infer, Sequence[Any]]:
        """Return the action with offsets of its payloads in shared memory, and the payloads that must be sent."""
        assert self._arena is not None
        inputs: list[InferInput] = []
        shared: list[Any] = []
        sent: list[Any] = []
        for request, payload in zip(action.inputs, payloads, strict=True):
            offset = self._arena.offset_of(payload)
            (sent if offset is None else shared).append(payload)
            inputs.append(request if offset is None else replace(request, arena_offset=offset))
        if shared:
            self._in_use.setdefault(worker_id, {})[action.id] = shared
            action = replace(action, inputs=tuple(inputs))
        return action, sent

    def ended(self, worker_id: str, action_id: int) -> None:
        """Release the payloads of an action that the worker has answered or has never received."""
        if (in_use := self._in_use.get(worker_id)) is not None:
            in_use.pop(action_id, None)

    def left(self, worker_id: str) -> None:
        """Release the payloads of a worker that has disconnected."""
        self._in_use.pop(worker_id, None)
