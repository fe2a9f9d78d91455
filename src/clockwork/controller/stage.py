"""Defines the stages of a controller, the events that end them, and the phases of a worker.

`TRANSITIONS` is complete. If the table has no entry for a stage and an event, the event cannot happen in that stage.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Stage(Enum):
    """The stages of a controller, from its start to its end."""

    QUERYING = "querying"  #: the workers report their devices and models
    LOADING = "loading"  #: models are loaded into the workers' host memory
    PROFILING = "profiling"  #: models are measured on devices
    SERVING = "serving"  #: the scheduler decides about requests
    DRAINING = "draining"  #: pending requests are finished, new requests are refused


class StageEvent(Enum):
    """The events that make a controller enter its next stage. The values label the diagram in ARCHITECTURE.md."""

    WORKERS_REPORTED = "enough workers have reported their state"
    MODELS_LOADED = "all loads have ended"
    MODELS_MEASURED = "all models are measured"
    NO_MODEL_MEASURED = "no model could be measured"
    DRAIN_REQUESTED = "the operator ends the server"


TRANSITIONS: Final[Mapping[tuple[Stage, StageEvent], Stage]] = {
    (Stage.QUERYING, StageEvent.WORKERS_REPORTED): Stage.LOADING,
    (Stage.LOADING, StageEvent.MODELS_LOADED): Stage.PROFILING,
    (Stage.PROFILING, StageEvent.MODELS_MEASURED): Stage.SERVING,
    (Stage.PROFILING, StageEvent.NO_MODEL_MEASURED): Stage.LOADING,
    (Stage.QUERYING, StageEvent.DRAIN_REQUESTED): Stage.DRAINING,
    (Stage.LOADING, StageEvent.DRAIN_REQUESTED): Stage.DRAINING,
    (Stage.PROFILING, StageEvent.DRAIN_REQUESTED): Stage.DRAINING,
    (Stage.SERVING, StageEvent.DRAIN_REQUESTED): Stage.DRAINING,
}
"""Maps (stage, event) to the next stage."""


class WorkerPhase(Enum):
    """The phases of a connected worker. Before the stage SERVING, no worker is READY."""

    QUERIED = "queried"  #: the worker is connected, but has not reported its state
    KNOWN = "known"  #: the worker has reported its state, but may still load or measure models
    READY = "ready"  #: the scheduler uses the worker
