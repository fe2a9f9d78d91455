"""A device's weights cache: which models' weights are in it, on their way in or out, or in use.

Theory of operation. The table `TRANSITIONS` says how the state of a model's weights changes. An event that the table
lacks is refused with the status in `REFUSAL_STATUSES`; an event in neither table is a bug of the host. Pages are taken
when a load begins and freed when the weights are gone, so no page is promised twice. Weights in use are never evicted.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from clockwork.messages.status import Status
from clockwork.pages import PageCache
from clockwork.units import Pages
from clockwork.worker.errors import ActionRefusedError


class WeightsState(StrEnum):
    """Where a model's weights are."""

    COLD = "not loaded"
    LOADING = "being loaded"
    WARM = "loaded"
    IN_USE = "in use by an inference"
    EVICTING = "being evicted"


class WeightsEvent(StrEnum):
    """What happens to a model's weights."""

    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    EXECUTE = "execute"
    EXECUTED = "executed"
    EVICT = "evict"
    EVICTED = "evicted"


_R, _S = WeightsState, WeightsEvent

#: (state, step) -> next state.
TRANSITIONS: Final[Mapping[tuple[WeightsState, WeightsEvent], WeightsState]] = {
    (_R.COLD, _S.LOAD): _R.LOADING,  # pages are taken
    (_R.LOADING, _S.LOADED): _R.WARM,
    (_R.LOADING, _S.LOAD_FAILED): _R.COLD,  # pages are given back
    (_R.WARM, _S.EXECUTE): _R.IN_USE,
    (_R.IN_USE, _S.EXECUTED): _R.WARM,
    (_R.WARM, _S.EVICT): _R.EVICTING,
    (_R.EVICTING, _S.EVICTED): _R.COLD,  # pages are given back
}

#: (state, step) -> why not. What is in neither table is a bug of the host.
REFUSAL_STATUSES: Final[Mapping[tuple[WeightsState, WeightsEvent], Status]] = {
    (_R.LOADING, _S.LOAD): Status.WEIGHTS_ALREADY_LOADED,
    (_R.WARM, _S.LOAD): Status.WEIGHTS_ALREADY_LOADED,
    (_R.IN_USE, _S.LOAD): Status.WEIGHTS_ALREADY_LOADED,
    (_R.EVICTING, _S.LOAD): Status.WEIGHTS_IN_USE,
    (_R.COLD, _S.EXECUTE): Status.WEIGHTS_NOT_PRESENT,
    (_R.LOADING, _S.EXECUTE): Status.WEIGHTS_NOT_PRESENT,
    (_R.EVICTING, _S.EXECUTE): Status.WEIGHTS_NOT_PRESENT,
    (_R.COLD, _S.EVICT): Status.WEIGHTS_NOT_PRESENT,
    (_R.LOADING, _S.EVICT): Status.WEIGHTS_IN_USE,
    (_R.IN_USE, _S.EVICT): Status.WEIGHTS_IN_USE,
    (_R.EVICTING, _S.EVICT): Status.WEIGHTS_IN_USE,
}


class DeviceMemory:
    """The weights cache of one device."""

    def __init__(self, gpu: int, total_pages: Pages) -> None:
        """``gpu`` is its number, for messages."""
        self.cache = PageCache(total_pages)
        self._gpu = gpu
        self._states: dict[str, WeightsState] = {}  #: COLD models are absent
        self._handles: dict[str, object] = {}  #: of all and only the models WARM, IN_USE and EVICTING

    def state_of(self, model: str) -> WeightsState:
        """Where the weights of ``model`` are."""
        return self._states.get(model, WeightsState.COLD)

    def models_in(self, *states: WeightsState) -> tuple[str, ...]:
        """The models that are in one of these states, least recently used first."""
        return tuple(model for model in self.cache if self._states[model] in states)

    def handle_of(self, model: str) -> object:
        """The handle of a model whose weights are there.

        Raises:
            KeyError: they are not.
        """
        return self._handles[model]

    def begin_load(self, model: str, pages: Pages) -> None:
        """Take the pages for ``model``.

        Raises:
            ActionRefusedError: its weights are not COLD, or too few pages are free.
        """
        after = self._after(model, WeightsEvent.LOAD)
        if not self.cache.take(model, pages):
            raise ActionRefusedError(
                Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE,
                f"the weights of {model} need {pages} pages; gpu {self._gpu} has {self.cache.free} "
                f"of {self.cache.total} free",
            )
        self._states[model] = after

    def loaded(self, model: str, handle: object) -> None:
        """The weights are there."""
        self._states[model] = self._after(model, WeightsEvent.LOADED)
        self._handles[model] = handle

    def load_failed(self, model: str) -> None:
        """The weights are not there; the pages are free."""
        self._free(model, WeightsEvent.LOAD_FAILED)

    def begin_execute(self, model: str) -> object:
        """``model`` is in use from now on; returns its handle.

        Raises:
            ActionRefusedError: its weights are not WARM.
        """
        self._states[model] = self._after(model, WeightsEvent.EXECUTE)
        self.cache.touch(model)
        return self._handles[model]

    def executed(self, model: str) -> None:
        """``model`` is no longer in use."""
        self._states[model] = self._after(model, WeightsEvent.EXECUTED)

    def begin_evict(self, model: str) -> object:
        """``model`` must not be used any more; returns the handle to close.

        Raises:
            ActionRefusedError: its weights are not WARM.
        """
        self._states[model] = self._after(model, WeightsEvent.EVICT)
        return self._handles[model]

    def evicted(self, model: str) -> None:
        """The handle is closed; the pages are free."""
        self._free(model, WeightsEvent.EVICTED)
        del self._handles[model]

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and checkers."""
        assert set(self.cache) == set(self._states)
        assert 0 <= self.cache.used <= self.cache.total
        assert WeightsState.COLD not in self._states.values()
        assert set(self._handles) == {m for m, s in self._states.items() if s is not WeightsState.LOADING}
        assert len(self.models_in(WeightsState.IN_USE)) <= 1

    def _free(self, model: str, step: WeightsEvent) -> None:
        assert self._after(model, step) is WeightsState.COLD
        del self._states[model]
        self.cache.give_back(model)

    def _after(self, model: str, step: WeightsEvent) -> WeightsState:
        state = self.state_of(model)
        after = TRANSITIONS.get((state, step))
        if after is None:
            text = f"the weights of {model} on gpu {self._gpu} are {state.value}: cannot {step.value}"
            raise ActionRefusedError(REFUSAL_STATUSES[state, step], text)
        return after
