"""Clockwork: an inference server for many models on few devices that predicts when each request will finish.

The names in ``__all__`` are the API for clients::

    import clockwork

    with clockwork.Client("127.0.0.1:12346") as client:
        result = client.model("resnet50").infer({"data": image}, slo=0.1)

The API for authors of schedulers is in `clockwork.scheduling`.

Python runs this file before it imports any module of the package. So this file imports no large modules at once. The
module of a public name is imported when the name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from clockwork.version import __version__

if TYPE_CHECKING:
    from clockwork.arrays import dtype_of
    from clockwork.client import AsyncClient, AsyncModel, Client, InferenceResult, Model
    from clockwork.errors import (
        ClockworkError,
        ConnectionLostError,
        DeadlineError,
        InitializingError,
        InvalidModelError,
        InvalidRequestError,
        NotPermittedError,
        OtherVersionError,
        ProtocolError,
        RequestRefusedError,
        RequestTimeoutError,
        ServerError,
        UnknownModelError,
    )
    from clockwork.messages.requests import ModelSummary, RequestTiming, ServerStatus
    from clockwork.messages.status import Status
    from clockwork.messages.tensors import TensorInfo


__all__ = [
    "AsyncClient",
    "AsyncModel",
    "Client",
    "ClockworkError",
    "ConnectionLostError",
    "DeadlineError",
    "InferenceResult",
    "InitializingError",
    "InvalidModelError",
    "InvalidRequestError",
    "Model",
    "ModelSummary",
    "NotPermittedError",
    "OtherVersionError",
    "ProtocolError",
    "RequestRefusedError",
    "RequestTimeoutError",
    "RequestTiming",
    "ServerError",
    "ServerStatus",
    "Status",
    "TensorInfo",
    "UnknownModelError",
    "__version__",
    "dtype_of",
]

_MODULES: Final = {
    "AsyncClient": "client",
    "AsyncModel": "client",
    "Client": "client",
    "InferenceResult": "client",
    "Model": "client",
    "ModelSummary": "messages.requests",
    "RequestTiming": "messages.requests",
    "ServerStatus": "messages.requests",
    "Status": "messages.status",
    "TensorInfo": "messages.tensors",
    "dtype_of": "arrays",
}
"""The module of each public name, relative to ``clockwork``. All exceptions are in ``errors``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'clockwork' has no attribute {name!r}")
    value = getattr(import_module(f"clockwork.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
