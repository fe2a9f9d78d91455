"""Where a model's weights are, seen from one device, and which event changes that.

`RESIDENCY` is the whole table. An event that a state has no entry for is a defect of the scheduler or of the worker:
`GPUState` raises `ValueError`. A model whose worker was lost, or was never loaded, is COLD.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Residency(Enum):
    """Where a model's weights are, seen from one device."""

    COLD = "cold"
    LOADING = "loading"
    WARM = "warm"


class ResidencyEvent(Enum):
    """An event that concerns a model's weights on one device; the values are the texts of the diagram."""

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
    (_R.COLD, _E.LOAD): _R.LOADING,  # takes the pages now, before the worker confirms
    (_R.LOADING, _E.LOADED): _R.WARM,
    (_R.LOADING, _E.LOAD_FAILED): _R.COLD,  # frees the pages; Infers sent behind the load will fail
    (_R.LOADING, _E.INFER): _R.LOADING,  # the worker executes the Infer when the load has ended
    (_R.LOADING, _E.UNLOAD): _R.COLD,
    (_R.WARM, _E.INFER): _R.WARM,  # the weights cannot be evicted before the result
    (_R.WARM, _E.EVICT): _R.COLD,  # frees the pages now: the worker executes loads and evictions in order
    (_R.WARM, _E.UNLOAD): _R.COLD,
}
"""(state, event) -> next state."""
