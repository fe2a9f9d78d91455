"""Defines the states of a model's weights on one device, and the events that change the state.

`RESIDENCY` is the complete table. If a state has no entry for an event, the event is a defect of the scheduler or of
the worker, and `GPUState` raises `ValueError`. A model's weights are COLD if they were never loaded, or if the worker
was lost.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Residency(Enum):
    """State of a model's weights on one device."""

    COLD = "cold"
    LOADING = "loading"
    WARM = "warm"


class ResidencyEvent(Enum):
    """An event that concerns a model's weights on one device.

    The values label the diagram in ARCHITECTURE.md.
    """

    REPORTED = "its worker reports the weights when it connects"
    LOAD = "load_weights"
    LOADED = "LoadWeightsResult"
    LOAD_FAILED = "LoadWeights fails"
    INFER = "infer"
    EVICT = "evict_weights"
    UNLOAD = "its worker unloads the model"


_R = Residency
_E = ResidencyEvent

RESIDENCY: Final[Mapping[tuple[Residency, ResidencyEvent], Residency]] = {
    (_R.COLD, _E.REPORTED): _R.WARM,
    (_R.COLD, _E.LOAD): _R.LOADING,  # the pages count as used at once, before the worker confirms the load
    (_R.LOADING, _E.LOADED): _R.WARM,
    (_R.LOADING, _E.LOAD_FAILED): _R.COLD,  # the pages are free again; Infers that were sent after the load will fail
    (_R.LOADING, _E.INFER): _R.LOADING,  # the worker executes the Infer after the load
    (_R.LOADING, _E.UNLOAD): _R.COLD,
    (_R.WARM, _E.INFER): _R.WARM,  # the weights cannot be evicted before the Infer has ended
    (_R.WARM, _E.EVICT): _R.COLD,  # the pages are free at once: the worker executes loads and evictions in order
    (_R.WARM, _E.UNLOAD): _R.COLD,
}
"""Maps (state, event) to the next state."""
