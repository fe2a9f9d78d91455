"""Decides, before anything is executed, whether the rows of several requests may share a batch.

If it is not certain that batching is correct, a model is not batched. Not batching a model costs speed, but can never
give a wrong response. A model is batched if two conditions are met. The analysis of its graph must prove that each row
is computed independently, and a trial (`clockwork.runtimes.trial`) must find no difference between single and batched
execution. A model without such a proof is batched only if the operator allows batching with ``--allow-batching`` and
the model passes a longer trial. A model that mixes rows is never batched.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from clockwork.runtimes.config_pbtxt import max_batch_size
from clockwork.runtimes.examples import FREE_DIM, Known, Search
from clockwork.runtimes.given import GivenInputs, Shape, given_inputs, shapes_by_model
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.runtimes.rows.value import Proof

NO_BATCHING: Final = "--no-batching"
ALLOW_BATCHING: Final = "--allow-batching"

UNDECLARED: Final = "its inputs and outputs have no free first dimension in common"
FORBIDDEN: Final = f"{NO_BATCHING} names it"
CONFIGURED: Final = "max_batch_size is 0 in its config.pbtxt"


class BatchingPolicy(Struct, frozen=True):
    """The operator's choices for one model: about batching, and about the inputs for its trial and its measurement.

    ``forbidden`` is the reason why the model must not be batched, or empty. ``allowed``
    means that the model may be batched even without a proof. ``max_batch`` is the largest batch in rows, or 0 for no
    limit. ``given`` contains the inputs that the operator gives, and ``free_dim`` is the size to try first for free
    dimensions.
    """

    forbidden: str = ""
    allowed: bool = False
    max_batch: int = 0
    given: tuple[GivenInputs, ...] = ()
    free_dim: int = FREE_DIM

    def search(self, known: Known | None = None, only_zeros: bool = False) -> Search:
        """Return how to find inputs that the model accepts; see `clockwork.runtimes.examples.Search`."""
        return Search(self.given, known or {}, self.free_dim, only_zeros)

    def digest(self, of_file: str) -> str:
        """Return the digest of a model and this policy.

        With the default policy, this is the digest of the model's files.

        Measured times are stored by digest. The digest includes the policy, because the policy decides which batch
        sizes are measured.
        """
        return of_file if self == BatchingPolicy() else hashlib.sha256(f"{of_file} {self}".encode()).hexdigest()


class BatchingOptions(Struct, frozen=True):
    """Model names given with ``--no-batching`` and ``--allow-batching``, and shapes given with ``--model-shape``."""

    never: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()
    shapes: Mapping[str, Mapping[str, Shape]] = {}
    free_dim: int = FREE_DIM

    def of(self, name: str, path: Path, file: Path, links: LinkPolicy = NO_LINKS) -> BatchingPolicy:
        """Return the policy for the model with this name. ``file`` is the model file that ``path`` refers to.

        Raises:
            InvalidModelError: the config.pbtxt or the file with examples beside the model cannot be read.
        """
        given = given_inputs(self.shapes.get(name), path, file, links)
        if name in self.never:
            return BatchingPolicy(FORBIDDEN, given=given, free_dim=self.free_dim)
        limit = max_batch_size(path, file)
        if limit == 0:
            return BatchingPolicy(CONFIGURED, given=given, free_dim=self.free_dim)
        return BatchingPolicy("", name in self.allowed, limit or 0, given, self.free_dim)


def batching_options(
    never: Iterable[str] | None,
    allowed: Iterable[str] | None,
    shapes: Iterable[str] | None = None,
    free_dim: int = FREE_DIM,
) -> BatchingOptions:
    """Parse the values of ``--no-batching``, ``--allow-batching`` and ``--model-shape``."""
    return BatchingOptions(frozenset(never or ()), frozenset(allowed or ()), shapes_by_model(shapes or ()), free_dim)


class TrialPlan(Struct, frozen=True):
    """Describes the trial of a model.

    The plan depends on the analysis of the model's graph and on the operator's policy.

    ``refused`` is the reason why the model is not batched; if it is set, there is no trial. ``thorough`` means that
    nothing is proved about the model, so the trial is the only check. ``coarse`` means that the model computes one
    quantisation scale for a whole batch, and that the operator accepts the resulting loss of precision.
    """

    refused: str = ""
    thorough: bool = False
    coarse: bool = False


def plan_trial(policy: BatchingPolicy, analyse: Callable[[bool], Proof]) -> TrialPlan:
    """Decide how a model is tried.

    ``analyse`` analyses the graph. The argument of ``analyse`` states whether one quantisation scale for a whole batch
    is accepted.
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
    return TrialPlan(f"{proof.reason}, so it may compute across rows ({ALLOW_BATCHING} accepts it)")
