"""Keeps the names, descriptions and handles of the models in the worker's host memory.

A name refers to the same content until the model is unloaded. A LoadModelFromDisk that repeats the path and content of
a loaded model succeeds and changes nothing. If the name is in use and the path or the content differs, the action is
refused. The copies that one LoadModelFromDisk creates share one block of bytes in host memory. These bytes never
change. On a device, each copy has its own weights.
"""

from typing import Final

from clockwork.messages.actions import LoadModelFromDisk, model_names
from clockwork.messages.results import ModelInfo
from clockwork.messages.status import Status
from clockwork.pages import pages_for
from clockwork.units import Bytes, Pages, show_bytes
from clockwork.worker.errors import ActionRefusedError
from clockwork.worker.events import ModelRead

MAX_COPIES: Final = 10_000
"""Limit of ``no_of_copies``. The paper's largest experiment has 4,026 models (OSDI'20, section 6.5)."""


class HostModels:
    """The models that are loaded at present."""

    def __init__(self, page_size: Bytes, largest_cache: Pages) -> None:
        """``largest_cache`` is the size of the largest weights cache.

        A model with weights larger than the cache fits on no device.
        """
        self._page_size = page_size
        self._largest_cache = largest_cache
        self._infos: dict[str, ModelInfo] = {}
        self._handles: dict[str, object] = {}  #: handles by model name

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def infos(self) -> tuple[ModelInfo, ...]:
        """Return all models in the order in which they were loaded."""
        return tuple(self._infos.values())

    def info(self, name: str) -> ModelInfo:
        """Return a model's description.

        Raises:
            ActionRefusedError: no model has this name.
        """
        info = self._infos.get(name)
        if info is None:
            raise ActionRefusedError(Status.UNKNOWN_MODEL, f"model {name!r} is not held by this worker")
        return info

    def handle(self, name: str) -> object:
        """Return the `HostModel` of a model."""
        return self._handles[name]

    def check(self, action: LoadModelFromDisk) -> None:
        """Check a LoadModelFromDisk before its file is read.

        Raises:
            ActionRefusedError: the number of copies is out of bounds, or one of the names is in use.
        """
        if not 1 <= action.no_of_copies <= MAX_COPIES:
            text = f"no_of_copies is {action.no_of_copies}; it must be 1 to {MAX_COPIES}"
            raise ActionRefusedError(Status.INVALID_ACTION, text)
        if not action.name:
            raise ActionRefusedError(Status.INVALID_MODEL_NAME, "model name is empty")
        wanted = (action.path, action.name, action.no_of_copies)
        for name in model_names(action.name, action.no_of_copies):
            held = self._infos.get(name)
            if held is not None and (held.path, held.load, held.copies) != wanted:
                raise ActionRefusedError(
                    Status.INVALID_MODEL_NAME,
                    f"name {name!r} is in use by a model from {held.path} ({held.copies} copies)",
                )

    def add(self, action: LoadModelFromDisk, read: ModelRead) -> tuple[ModelInfo, ...]:
        """Add the models of a checked action.

        Return all models of the action, including those that were already loaded.

        Raises:
            ActionRefusedError: the model fits on no device, or the file has changed since it was loaded.
        """
        pages = pages_for(read.weights_bytes, self._page_size)
        if pages > self._largest_cache:
            raise ActionRefusedError(
                Status.MODEL_TOO_BIG,
                f"weights of {action.path} ({show_bytes(read.weights_bytes)}) need {pages} pages of "
                f"{show_bytes(self._page_size)}; the largest weights cache of this worker has {self._largest_cache}",
            )
        names = model_names(action.name, action.no_of_copies)
        for name in names:
            held = self._infos.get(name)
            if held is not None and held.digest != read.digest:
                text = f"name {name!r} is in use: {action.path} has changed since it was loaded"
                raise ActionRefusedError(Status.INVALID_MODEL_NAME, text)
        for name in names:
            if name not in self._infos:
                self._infos[name] = _info(name, action, read, pages)
                self._handles[name] = read.handle
        return tuple(self._infos[name] for name in names)

    def forget(self, name: str) -> None:
        """Remove a model."""
        del self._infos[name]
        del self._handles[name]


def _info(name: str, action: LoadModelFromDisk, read: ModelRead, pages: Pages) -> ModelInfo:
    return ModelInfo(
        name=name,
        path=action.path,
        digest=read.digest,
        runtime=read.runtime,
        inputs=read.inputs,
        outputs=read.outputs,
        batchable=read.batchable,
        weights_bytes=read.weights_bytes,
        weights_pages=pages,
        load=action.name,
        copies=action.no_of_copies,
        max_batch=read.max_batch,
        version=read.version,
        example=read.example,
        trial=read.trial,
    )
