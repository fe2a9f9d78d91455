"""What a worker says of an action, held against what the action was.

Rules of the file: a result of the wrong kind, or with other requests' outputs, says nothing that can be used. It is
replaced by an error, so that all others may rely on an action's result being its own or an `ErrorResult`.
"""

from collections.abc import Mapping
from typing import Final

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.results import (
    ErrorResult,
    EvictWeightsResult,
    InferResult,
    LoadWeightsResult,
    Result,
)
from clockwork.messages.status import Status

RESULT_OF: Final[Mapping[type, type]] = {
    LoadWeights: LoadWeightsResult,
    EvictWeights: EvictWeightsResult,
    Infer: InferResult,
}
"""The result of an action that succeeded."""


def plausible(action: LoadWeights | EvictWeights | Infer, result: Result) -> Result:
    """The result, or an error in its place."""
    if isinstance(result, ErrorResult):
        return result
    name = type(action).__name__
    if not isinstance(result, RESULT_OF[type(action)]):
        text = f"the worker answered {name} with {type(result).__name__}"
        return ErrorResult(action.id, name, Status.ERROR, text)
    if isinstance(action, Infer) and isinstance(result, InferResult):
        asked = [share.request_id for share in action.inputs]
        got = [output.request_id for output in result.outputs]
        if asked != got:
            text = f"the worker was given the requests {asked} and answered {got}"
            return ErrorResult(action.id, name, Status.ERROR, text)
    return result
