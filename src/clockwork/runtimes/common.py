"""Code that all runtimes use: to find models, to share models in memory, and to describe models and errors.

`ModelRuntime` is the base class of every runtime that reads model files. Models in host memory are shared by content.
While a model is in use, a second load of the same content with the same batching policy returns the same object.
"""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Lock
from typing import Final, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batching import BatchingOptions, BatchingPolicy
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.runtimes.probe import Verdict
from clockwork.runtimes.signature import Signature
from clockwork.units import Bytes, show_bytes

MAX_ERROR_CHARS: Final = 300
"""Longest error text of a library, in characters. Longer texts are cut."""


class DigestedFile(Protocol):
    """A model file that has been checked and has a digest."""

    @property
    def digest(self) -> str:
        """Digest of the model file and of all other files that belong to the model."""
        ...


FileT = TypeVar("FileT", bound=DigestedFile)
ModelT = TypeVar("ModelT")


class ModelRuntime(ABC, Generic[FileT, ModelT]):
    """Base class of runtimes; see `clockwork.runtimes.base.Runtime`.

    `load_model` may be called from any thread. Models are prepared one at a time, because preparing a model needs
    several times as much memory as the model. A model in host memory is dropped when nothing refers to it any more.
    """

    def __init__(self, version: str, device_kind: str, batching: BatchingOptions | None) -> None:
        """``version`` is the library's name and version.

        ``device_kind`` is the hardware and the number of threads of a device.
        """
        self.version: Final = version
        self.device_kind: Final = device_kind
        self._batching = batching or BatchingOptions()
        self.links: LinkPolicy = NO_LINKS
        self._lock = Lock()
        self._models: WeakValueDictionary[str, ModelT] = WeakValueDictionary()

    def load_model(self, path: Path, name: str = "", *, isolated: bool = False) -> ModelT:
        """Read and prepare a model, or return a model in use that has the same content and batching policy.

        ``isolated`` means that this process should do as little of the work as possible.

        Raises:
            InvalidModelError: the file is not a model of this runtime, or is broken.
            ServerError: a device cannot execute the model, or has too little memory for it.
        """
        found = self.locate(path, name)
        policy = self._batching.of(name, path, found, self.links)
        file = self._read_isolated(found, policy) if isolated else self._read(found)
        digest = policy.digest(file.digest)
        with self._lock:
            self._release_unused()
            model = self._models.get(digest)
            if model is None:
                model = self._models[digest] = self._prepare(file, policy)
        return model

    @abstractmethod
    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file for a path; see `clockwork.runtimes.base.Runtime`."""

    @abstractmethod
    def _read(self, path: Path) -> FileT:
        """Check a model file that `locate` returned."""

    def _read_isolated(self, path: Path, policy: BatchingPolicy) -> FileT:
        """Check a model file in a separate process. The separate process also does most of the work of `_prepare`."""
        return self._read(path)

    @abstractmethod
    def _prepare(self, file: FileT, policy: BatchingPolicy) -> ModelT:
        """Make a model in host memory from a checked file. The caller holds the lock."""

    def _release_unused(self) -> None:
        """Release the resources of models that were dropped. The caller holds the lock."""


def model_info(
    ports: Signature, digest: str, policy: BatchingPolicy, verdict: Verdict, *, weights_bytes: Bytes, runtime: str
) -> HostModelInfo:
    """Describe a prepared model. ``digest`` is the digest of the model file."""
    return HostModelInfo(
        digest=policy.digest(digest),
        inputs=tuple(port.info for port in ports.inputs + ports.optional),
        outputs=tuple(port.info for port in ports.outputs),
        batchable=not verdict.unbatched,
        weights_bytes=weights_bytes,
        runtime=runtime,
        unbatched=verdict.unbatched,
        max_batch=policy.max_batch,
        trial=verdict.trial,
        example=verdict.example,
    )


def weights_error(library: str, nbytes: Bytes, device: int, reason: str) -> ServerError:
    """Return the error for a failed LoadWeights."""
    return ServerError(f"{library} could not load {show_bytes(nbytes)} of weights on device {device}: {reason}")


def error_text(error: BaseException, noise: re.Pattern[str]) -> str:
    """Return a library's error text on one line, cut to `MAX_ERROR_CHARS`, without the parts that match ``noise``.

    Clients receive error texts, so ``noise`` should match paths and lines of source code.
    """
    text = " ".join(noise.sub("", str(error)).split())
    if len(text) > MAX_ERROR_CHARS:
        text = text[:MAX_ERROR_CHARS] + "..."
    return text or type(error).__name__


def inference_error(
    reason: str, *, out_of_memory: bool = False, inputs_rejected: bool = False
) -> InvalidRequestError | ServerError:
    """Return the error for a failed inference. ``reason`` is the library's text."""
    if out_of_memory:
        return ServerError(f"out of memory during the inference: {reason}")
    if inputs_rejected:
        return InvalidRequestError(f"the model rejects these inputs: {reason}")
    return ServerError(f"the inference failed: {reason}")
