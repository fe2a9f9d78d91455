"""Status codes.

The codes have the same numbers as in the original system, so that logs of both systems can be compared.

=======  ==================================================================
0        success
1-9      the controller's responses to clients (workers use 2 and 3 as well)
10-13    invalid actions, and actions that came too late (11)
20-23    weights in the wrong state for the action
30-31    inputs
40-41    models on disk
45       the network
46-47    missing or insufficient permission
50-54    LoadWeights        60-63  EvictWeights
70-78    copying inputs     80-84  execution      90-92  copying outputs
=======  ==================================================================

The numbers 9, 42, 43, 46 and 47 do not exist in the original system.
"""

from enum import IntEnum


class Status(IntEnum):
    """The outcome of a request or of an action."""

    SUCCESS = 0
    ERROR = 1
    RUNTIME_ERROR = 2
    SHUTTING_DOWN = 3
    TIMEOUT = 4
    INITIALIZING = 5
    INVALID_REQUEST = 6
    SKIPPED_BY_CONTROLLER = 7
    CONTROLLER_COULD_NOT_START_IN_TIME = 8
    CANCELLED = 9

    UNKNOWN_MODEL = 10
    COULD_NOT_START_IN_TIME = 11
    INVALID_ACTION = 12
    INVALID_GPU = 13

    WEIGHTS_NOT_PRESENT = 20
    WEIGHTS_ALREADY_LOADED = 21
    WEIGHTS_IN_USE = 22
    WEIGHTS_CHANGED = 23

    INVALID_INPUT = 30
    INVALID_BATCH_SIZE = 31

    INVALID_MODEL_NAME = 40
    INVALID_MODEL_PATH = 41
    INVALID_MODEL = 42
    MODEL_TOO_BIG = 43

    NETWORK_SEND_TOO_LATE = 45

    NOT_AUTHENTICATED = 46
    NOT_PERMITTED = 47

    LOAD_WEIGHTS_TOO_EARLY = 50
    LOAD_WEIGHTS_TOO_LATE = 51
    LOAD_WEIGHTS_UNKNOWN_MODEL = 52
    LOAD_WEIGHTS_INSUFFICIENT_CACHE = 53
    LOAD_WEIGHTS_CONCURRENT_MODIFICATION = 54

    EVICT_WEIGHTS_TOO_EARLY = 60
    EVICT_WEIGHTS_TOO_LATE = 61
    EVICT_WEIGHTS_UNKNOWN_MODEL = 62
    EVICT_WEIGHTS_NOT_IN_CACHE = 63

    COPY_INPUT_TOO_EARLY = 70
    COPY_INPUT_TOO_LATE = 71
    COPY_INPUT_UNKNOWN_MODEL = 72
    COPY_INPUT_INVALID_BATCH_SIZE = 73
    COPY_INPUT_HOST_ALLOC = 74
    COPY_INPUT_INVALID_INPUT = 75
    COPY_INPUT_IO_POOL_EXHAUSTED = 76
    COPY_INPUT_BAD_SIZES = 77
    COPY_INPUT_BAD_DECOMPRESS = 78

    EXEC_TOO_EARLY = 80
    EXEC_TOO_LATE = 81
    EXEC_WEIGHTS_MISSING = 82
    EXEC_WORKSPACE_POOL_EXHAUSTED = 83
    EXEC_CONCURRENT_WEIGHTS_MODIFICATION = 84

    COPY_OUTPUT_TOO_EARLY = 90
    COPY_OUTPUT_TOO_LATE = 91
    COPY_OUTPUT_HOST_ALLOC = 92


def status_name(status: int) -> str:
    """Return the name of a status, such as ``TIMEOUT``, or the number as text if it has no name."""
    try:
        return Status(status).name
    except ValueError:
        return str(status)
