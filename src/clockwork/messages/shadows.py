"""Describes shadows: versions that execute copies of live requests, and the comparison of their outputs."""

from typing import Final

from msgspec import Struct

WAITING: Final = "waiting"
RUNNING: Final = "running"
ENDED: Final = "ended"
"""The states of a shadow. A shadow waits while its version is not ready, or is the default version."""

NAMES: Final = "names"
DATATYPE: Final = "datatype"
SHAPE: Final = "shape"
VALUES: Final = "values"
NON_FINITE: Final = "non_finite"
ARGMAX: Final = "argmax"
MISMATCHES: Final = (NAMES, DATATYPE, SHAPE, VALUES, NON_FINITE, ARGMAX)
"""The kinds of mismatches between the outputs of a live request and of its copy.

- `NAMES`: the versions have different outputs
- `DATATYPE`, `SHAPE`: an output has a different datatype or shape
- `VALUES`: elements of an output of integers, booleans or strings differ
- `NON_FINITE`: infinities or NaNs of a float output are in different places
- `ARGMAX`: in a row of a float output, the largest element is at a different place

A small difference of floats is not a mismatch. `OutputComparison` contains the largest difference.
"""


class OutputComparison(Struct, frozen=True, array_like=True):
    """The comparison of one output, for one copy or for all copies together.

    - ``compared``, ``equal``: number of copies whose output was compared, and number of these outputs whose elements
      are all equal
    - ``max_difference``: the largest absolute difference between finite floats; 0 for other datatypes
    - ``rows``, ``rows_agreed``: number of rows along the last axis of a float output, and number of rows whose largest
      element is at the same place. Outputs whose last axis has fewer than two elements have no such rows.
    """

    name: str
    datatype: str
    compared: int = 0
    equal: int = 0
    max_difference: float = 0.0
    rows: int = 0
    rows_agreed: int = 0


class ShadowStatus(Struct, frozen=True, array_like=True):
    """The state of a shadow, and the comparison of its outputs.

    - ``share``: the share of the live requests that are copied
    - ``state``: `WAITING`, `RUNNING` or `ENDED`. ``reason`` explains why the shadow is not running, or why it executes
      no copies now
    - ``copied``: number of copies that were made
    - ``compared``, ``equal``: number of copies whose outputs were compared, and number of copies whose outputs are all
      equal
    - ``failed``: number of copies that the version refused or could not execute; ``last_failure`` is the last error
      message
    - ``dropped``: number of copies that were not executed or compared, for example because too many copies waited
    - ``mismatches``: number of compared copies by kind of mismatch (`MISMATCHES`)
    - ``outputs``: the comparison of each output
    """

    name: str
    version: str
    share: float
    state: str
    reason: str = ""
    copied: int = 0
    compared: int = 0
    equal: int = 0
    failed: int = 0
    last_failure: str = ""
    dropped: int = 0
    mismatches: dict[str, int] = {}
    outputs: tuple[OutputComparison, ...] = ()
