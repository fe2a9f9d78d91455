"""Where a controller is, and where each of its workers."""

from enum import Enum


class Stage(Enum):
    """Where start-up is."""

    QUERYING = "querying"
    LOADING = "loading"
    PROFILING = "profiling"
    SERVING = "serving"
    DRAINING = "draining"


class WorkerPhase(Enum):
    """Where a worker is; in stages before SERVING a worker stays KNOWN."""

    ASKED = "asked"  #: connected, has not told its state
    KNOWN = "known"  #: has told it; loads and measurements may be under way
    READY = "ready"  #: the scheduler has it
