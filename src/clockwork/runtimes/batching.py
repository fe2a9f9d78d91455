"""What decides whether the rows of several requests may go into one batch, before anything is executed.

Rules of the file: a doubt costs speed and never an answer. A model is batched if its graph proves that each row is
computed by itself and a trial (`clockwork.runtimes.trial`) finds nothing else. A model of which nothing is proved is
batched only if the operator of the server names it, and it passes a longer trial. A model that mixes rows never is.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from clockwork.runtimes.config_pbtxt import max_batch_size
from clockwork.runtimes.rows.value import Proof

NO_BATCHING: Final = "--no-batching"
ALLOW_BATCHING: Final = "--allow-batching"

UNDECLARED: Final = "its inputs and outputs have no free first dimension in common"
FORBIDDEN: Final = f"{NO_BATCHING} names it"
CONFIGURED: Final = "max_batch_size is 0 in its config.pbtxt"


class BatchingPolicy(Struct, frozen=True):
    """What the operator has said about one model.

    ``forbidden`` is the reason why it is not to be batched, or empty. ``allowed``: an unproved model may be.
    ``max_batch``: no batch may have more rows; 0 if there is no such limit.
    """

    forbidden: str = ""
    allowed: bool = False
    max_batch: int = 0

    def digest(self, of_file: str) -> str:
        """What identifies a model with this content and this wish: the content's digest, if nothing was said.

        Times are measured, remembered and planned with by digest, and other batches take other times.
        """
        return of_file if self == BatchingPolicy() else hashlib.sha256(f"{of_file} {self}".encode()).hexdigest()


class BatchingOptions(Struct, frozen=True):
    """``--no-batching`` and ``--allow-batching``: names of models."""

    never: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()

    def of(self, name: str, path: Path) -> BatchingPolicy:
        """What was said about a model with this name; ``path`` is the one it is loaded from.

        Raises:
            InvalidModelError: the config.pbtxt beside the model cannot be read.
        """
        if name in self.never:
            return BatchingPolicy(FORBIDDEN)
        limit = max_batch_size(path)
        if limit == 0:
            return BatchingPolicy(CONFIGURED)
        return BatchingPolicy(allowed=name in self.allowed, max_batch=limit or 0)


def batching_options(never: Iterable[str] | None, allowed: Iterable[str] | None) -> BatchingOptions:
    """The options as they were given."""
    return BatchingOptions(frozenset(never or ()), frozenset(allowed or ()))


class TrialPlan(Struct, frozen=True):
    """What the graph and the operator say, and so what a trial has to do.

    ``refused`` says why the model is not batched whatever a trial shows; there is none then. ``thorough``: nothing is
    proved, so that the trial is all there is. ``coarse``: the model chooses a scale for a whole batch, and the
    operator accepts what that costs.
    """

    refused: str = ""
    thorough: bool = False
    coarse: bool = False


def plan_trial(policy: BatchingPolicy, analyse: Callable[[bool], Proof]) -> TrialPlan:
    """What is to be tried.

    ``analyse`` analyses the graph; its argument says whether one scale for a whole batch is accepted.
    """
    if policy.forbidden:
        return TrialPlan(policy.forbidden)
    proof = analyse(False)
    if proof.proved:
        return TrialPlan()
    if policy.allowed:
        lenient = analyse(True) if proof.mixes else proof
        if not lenient.mixes:
            return TrialPlan(thorough=True, coarse=proof.mixes)
        proof = lenient
    if proof.mixes:
        return TrialPlan(proof.reason)
    return TrialPlan(f"{proof.reason}, so that it may compute across rows ({ALLOW_BATCHING} accepts it)")
