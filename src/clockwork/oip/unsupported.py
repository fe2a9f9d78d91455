"""Triton's extensions that Clockwork does not have: whoever asks for one is told so, and what there is instead.

Rules of the file: 501 and UNIMPLEMENTED, as Triton itself answers for what it was built without.
"""

from collections.abc import Mapping, Sequence
from typing import Final

_TRACING: Final = (
    "tracing is not supported: every answer says in its parameters where its time went, and `clockwork status` sums up"
)
_GENERATE: Final = "generate is not supported: each request has one answer; use infer"
_LOGGING: Final = "log settings are not changed while the server runs: start it with --log-level"
_SHARED_MEMORY: Final = (
    "shared memory is not supported: it would save about a tenth of a millisecond; send tensors as binary data"
)
_CUDA: Final = "CUDA shared memory is not supported: the devices here have none; send tensors as binary data"

METHODS: Final[Mapping[str, str]] = {
    "TraceSetting": _TRACING,
    "LogSettings": _LOGGING,
    "SystemSharedMemoryStatus": _SHARED_MEMORY,
    "SystemSharedMemoryRegister": _SHARED_MEMORY,
    "SystemSharedMemoryUnregister": _SHARED_MEMORY,
    "CudaSharedMemoryStatus": _CUDA,
    "CudaSharedMemoryRegister": _CUDA,
    "CudaSharedMemoryUnregister": _CUDA,
}
"""What is said to whom calls a method of GRPCInferenceService that is not served."""

_SHARED: Final = {"systemsharedmemory": _SHARED_MEMORY, "cudasharedmemory": _CUDA}
_OF_SHARED: Final = {
    "status": ("GET",),
    "register": ("POST",),
    "unregister": ("POST",),
}


def unsupported(parts: Sequence[str]) -> tuple[tuple[str, ...], str] | None:
    """The methods that a path of Triton's takes, and what is said to whom asks; None: it is no such path.

    ``parts``: of the path, between its slashes.
    """
    match parts:
        case ["v2", "models", _, "generate" | "generate_stream"]:
            return ("POST",), _GENERATE
        case ["v2", "models", _, "versions", _, "generate" | "generate_stream"]:
            return ("POST",), _GENERATE
        case ["v2", "logging"]:
            return ("GET", "POST"), _LOGGING
        case ["v2", "trace", "setting"] | ["v2", "models", _, "trace", "setting"]:
            return ("GET", "POST"), _TRACING
        case ["v2", family, action] if family in _SHARED and action in ("status", "unregister"):
            return _OF_SHARED[action], _SHARED[family]
        case ["v2", family, "region", _, action] if family in _SHARED and action in _OF_SHARED:
            return _OF_SHARED[action], _SHARED[family]
    return None
