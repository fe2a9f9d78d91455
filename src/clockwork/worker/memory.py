"""Keeps the state of each model's weights on a device, and counts the pages of the weights cache.

Theory of operation. The table `TRANSITIONS` defines how events change the state of a model's weights. If `TRANSITIONS`
has no entry for a state and an event, the event is refused with the status in `REFUSAL_STATUSES`. If neither table has
an entry, the event is a bug of the host. Pages are taken when a load begins, and are freed when the weights are no
longer on the device. So no page belongs to two models. Weights in use are never evicted.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from clockwork.messages.status import Status
from clockwork.pages import PageCache
from clockwork.units import Pages
from clockwork.worker.errors import ActionRefusedError


class WeightsState(StrEnum):
    """The state of a model's weights on a device."""

    COLD = "not loaded"
    LOADING = "being loaded"
    WARM = "loaded"
    IN_USE = "in use by an inference"
    EVICTING = "being evicted"


class WeightsEvent(StrEnum):
    """The events that change the state of a model's weights."""

    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    EXECUTE = "execute"
    EXECUTED = "executed"
    EVICT = "evict"
    EVICTED = "evicted"


_S, _E = WeightsState, WeightsEvent

#: (state, event) -> next state
TRANSITIONS: Final[Mapping[tuple[WeightsState, WeightsEvent], WeightsState]] = {
    (_S.COLD, _E.LOAD): _S.LOADING,  # pages are taken
    (_S.LOADING, _E.LOADED): _S.WARM,
    (_S.LOADING, _E.LOAD_FAILED): _S.COLD,  # the pages are freed
    (_S.WARM, _E.EXECUTE): _S.IN_USE,
    (_S.IN_USE, _E.EXECUTED): _S.WARM,
    (_S.WARM, _E.EVICT): _S.EVICTING,
    (_S.EVICTING, _E.EVICTED): _S.COLD,  # the pages are freed
}

#: (state, event) -> status of the refusal
REFUSAL_STATUSES: Final[Mapping[tuple[WeightsState, WeightsEvent], Status]] = {
    (_S.LOADING, _E.LOAD): Status.WEIGHTS_ALREADY_LOADED,
    (_S.WARM, _E.LOAD): Status.WEIGHTS_ALREADY_LOADED,
    (_S.IN_USE, _E.LOAD): Status.WEIGHTS_ALREADY_LOADED,
    (_S.EVICTING, _E.LOAD): Status.WEIGHTS_IN_USE,
    (_S.COLD, _E.EXECUTE): Status.WEIGHTS_NOT_PRESENT,
    (_S.LOADING, _E.EXECUTE): Status.WEIGHTS_NOT_PRESENT,
    (_S.EVICTING, _E.EXECUTE): Status.WEIGHTS_NOT_PRESENT,
    (_S.COLD, _E.EVICT): Status.WEIGHTS_NOT_PRESENT,
    (_S.LOADING, _E.EVICT): Status.WEIGHTS_IN_USE,
    (_S.IN_USE, _E.EVICT): Status.WEIGHTS_IN_USE,
    (_S.EVICTING, _E.EVICT): Status.WEIGHTS_IN_USE,
}


class DeviceMemory:
    """The weights cache of one device."""

    def __init__(self, gpu: int, total_pages: Pages) -> None:
        """``gpu`` is the device's number, which error messages contain."""
        self.cache = PageCache(total_pages)
        self._gpu = gpu
        self._states: dict[str, WeightsState] = {}  #: COLD models are left out
        self._handles: dict[str, object] = {}  #: handles of the models that are WARM, IN_USE or EVICTING

    def state_of(self, model: str) -> WeightsState:
        """Return the state of a model's weights."""
        return self._states.get(model, WeightsState.COLD)

    def models_in(self, *states: WeightsState) -> tuple[str, ...]:
        """Return the models whose weights are in one of these states, least recently used first."""
        return tuple(model for model in self.cache if self._states[model] in states)

    def handle_of(self, model: str) -> object:
        """Return the handle of a model's weights.

        Raises:
            KeyError: the weights are not on the device.
        """
        return self._handles[model]

    def begin_load(self, model: str, pages: Pages) -> None:
        """Begin to load a model's weights, and take their pages.

        Raises:
            ActionRefusedError: the weights are not COLD, or too few pages are free.
        """
        after = self._after(model, WeightsEvent.LOAD)
        if not self.cache.take(model, pages):
            raise ActionRefusedError(
                Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE,
                f"weights of {model} need {pages} pages; gpu {self._gpu} has {self.cache.free} of "
                f"{self.cache.total} pages free",
            )
        self._states[model] = after

    def loaded(self, model: str, handle: object) -> None:
        """Record that the weights are loaded."""
        self._states[model] = self._after(model, WeightsEvent.LOADED)
        self._handles[model] = handle

    def load_failed(self, model: str) -> None:
        """Record that loading the weights failed, and free their pages."""
        self._free(model, WeightsEvent.LOAD_FAILED)

    def begin_execute(self, model: str) -> object:
        """Begin to use a model's weights. Return their handle.

        Raises:
            ActionRefusedError: the weights are not WARM.
        """
        self._states[model] = self._after(model, WeightsEvent.EXECUTE)
        self.cache.touch(model)
        return self._handles[model]

    def executed(self, model: str) -> None:
        """Record that a model's weights are no longer in use."""
        self._states[model] = self._after(model, WeightsEvent.EXECUTED)

    def begin_evict(self, model: str) -> object:
        """Begin to evict a model's weights. Return the handle, which the host must close.

        Raises:
            ActionRefusedError: the weights are not WARM.
        """
        self._states[model] = self._after(model, WeightsEvent.EVICT)
        return self._handles[model]

    def evicted(self, model: str) -> None:
        """Record that the host has closed the handle, and free the pages."""
        self._free(model, WeightsEvent.EVICTED)
        del self._handles[model]

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        assert set(self.cache) == set(self._states)
        assert 0 <= self.cache.used <= self.cache.total
        assert WeightsState.COLD not in self._states.values()
        assert set(self._handles) == {m for m, s in self._states.items() if s is not WeightsState.LOADING}
        assert len(self.models_in(WeightsState.IN_USE)) <= 1

    def _free(self, model: str, event: WeightsEvent) -> None:
        assert self._after(model, event) is WeightsState.COLD
        del self._states[model]
        self.cache.give_back(model)

    def _after(self, model: str, event: WeightsEvent) -> WeightsState:
        state = self.state_of(model)
        after = TRANSITIONS.get((state, event))
        if after is None:
            text = f"cannot {event.value} weights of {model}: on gpu {self._gpu} they are {state.value}"
            raise ActionRefusedError(REFUSAL_STATUSES[state, event], text)
        return after
