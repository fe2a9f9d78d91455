"""Payloads that a worker reads where they lie, in memory that it shares with the controller.

Rules of the file: a payload in use by a worker is referred to until the worker has answered the action or is gone, so
that its memory is not used anew meanwhile.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from clockwork.host.arena import Arena
from clockwork.messages.actions import Infer, InferInput


class SharedPayloads:
    """What workers may be reading, by worker and action."""

    def __init__(self, arena: Arena | None) -> None:
        """``arena``: the shared memory, if there is any."""
        self._arena = arena
        self._in_use: dict[str, dict[int, list[Any]]] = {}

    def share(self, worker_id: str, action: Infer, payloads: Sequence[Any]) -> tuple[Infer, Sequence[Any]]:
        """Return the action with the places of payloads in shared memory, and the payloads that must be sent."""
        assert self._arena is not None
        inputs: list[InferInput] = []
        shared: list[Any] = []
        sent: list[Any] = []
        for it, payload in zip(action.inputs, payloads, strict=True):
            at = self._arena.where(payload)
            (sent if at is None else shared).append(payload)
            inputs.append(it if at is None else replace(it, arena_offset=at))
        if shared:
            self._in_use.setdefault(worker_id, {})[action.id] = shared
            action = replace(action, inputs=tuple(inputs))
        return action, sent

    def ended(self, worker_id: str, action_id: int) -> None:
        """The worker has answered the action, or never got it."""
        if (in_use := self._in_use.get(worker_id)) is not None:
            in_use.pop(action_id, None)

    def left(self, worker_id: str) -> None:
        """The worker is gone."""
        self._in_use.pop(worker_id, None)
