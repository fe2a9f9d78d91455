"""Error messages for extensions of Triton that Clockwork lacks. Each message names an alternative.

A request that needs such an extension fails with the HTTP status 501 or the gRPC code UNIMPLEMENTED. Triton replies in
the same way if it was built without the extension.
"""

from collections.abc import Mapping, Sequence
from typing import Final

_TRACING: Final = (
    "trace settings are not supported; start the server with --otel and OTEL_TRACES_SAMPLER to export traces"
)
_GENERATE: Final = "generate is not supported; each request has one response: use infer"
_SHARED_MEMORY: Final = "shared memory is not supported, and would save only about 0.1 ms; send tensors as binary data"
_CUDA: Final = "CUDA shared memory is not supported; send tensors as binary data"

METHODS: Final[Mapping[str, str]] = {
    "TraceSetting": _TRACING,
    "SystemSharedMemoryStatus": _SHARED_MEMORY,
    "SystemSharedMemoryRegister": _SHARED_MEMORY,
    "SystemSharedMemoryUnregister": _SHARED_MEMORY,
    "CudaSharedMemoryStatus": _CUDA,
    "CudaSharedMemoryRegister": _CUDA,
    "CudaSharedMemoryUnregister": _CUDA,
}
"""Error messages for the methods of GRPCInferenceService that Clockwork does not serve, by the method's name."""

_SHARED: Final = {"systemsharedmemory": _SHARED_MEMORY, "cudasharedmemory": _CUDA}
_SHARED_ACTIONS: Final = {
    "status": ("GET",),
    "register": ("POST",),
    "unregister": ("POST",),
}


def unsupported_path(parts: Sequence[str]) -> tuple[tuple[str, ...], str] | None:
    """For a path that only Triton has, return its HTTP methods and the error message.

    Return None if Triton does not have the path. ``parts`` are the path's parts between slashes.
    """
    match parts:
        case ["v2", "models", _, "generate" | "generate_stream"]:
            return ("POST",), _GENERATE
        case ["v2", "models", _, "versions", _, "generate" | "generate_stream"]:
            return ("POST",), _GENERATE
        case ["v2", "trace", "setting"] | ["v2", "models", _, "trace", "setting"]:
            return ("GET", "POST"), _TRACING
        case ["v2", family, action] if family in _SHARED and action in ("status", "unregister"):
            return _SHARED_ACTIONS[action], _SHARED[family]
        case ["v2", family, "region", _, action] if family in _SHARED and action in _SHARED_ACTIONS:
            return _SHARED_ACTIONS[action], _SHARED[family]
    return None
