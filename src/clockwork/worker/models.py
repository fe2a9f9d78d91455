"""The models in the worker's host memory: names, what is known of them, and their handles.

Rules of the file: a name stands for one content as long as it is held. LoadModelFromDisk of what is held already, from
the same path with the same content, succeeds again and changes nothing; of anything else it is refused. The copies that
one LoadModelFromDisk makes share the bytes in host memory, which nobody writes to, and nothing on any device.
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
"""``no_of_copies`` of one LoadModelFromDisk; the paper's largest experiment has 4,026 models (OSDI'20, section 6.5)."""


class HostModels:
    """What LoadModelFromDisk has made and UnloadModel has not unmade."""

    def __init__(self, page_size: Bytes, largest_cache: Pages) -> None:
        """``largest_cache``: no model needs more pages than this, or no device could ever hold it."""
        self._page_size = page_size
        self._largest_cache = largest_cache
        self._infos: dict[str, ModelInfo] = {}
        self._handles: dict[str, object] = {}  #: of the same names

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def infos(self) -> tuple[ModelInfo, ...]:
        """All models, in the order in which they were made."""
        return tuple(self._infos.values())

    def info(self, name: str) -> ModelInfo:
        """What is known of a model.

        Raises:
            ActionRefusedError: there is none of that name.
        """
        info = self._infos.get(name)
        if info is None:
            raise ActionRefusedError(Status.UNKNOWN_MODEL, f"this worker holds no model named {name!r}")
        return info

    def handle(self, name: str) -> object:
        """The `HostModel` of a model that is held."""
        return self._handles[name]

    def check(self, action: LoadModelFromDisk) -> None:
        """Check what can be known before the file is read.

        Raises:
            ActionRefusedError: the number of copies is out of bounds, or one of the names is held by another load.
        """
        if not 1 <= action.no_of_copies <= MAX_COPIES:
            text = f"no_of_copies is {action.no_of_copies}; it must be 1 to {MAX_COPIES}"
            raise ActionRefusedError(Status.INVALID_ACTION, text)
        if not action.name:
            raise ActionRefusedError(Status.INVALID_MODEL_NAME, "a model needs a name")
        wanted = (action.path, action.name, action.no_of_copies)
        for name in model_names(action.name, action.no_of_copies):
            held = self._infos.get(name)
            if held is not None and (held.path, held.load, held.copies) != wanted:
                raise ActionRefusedError(
                    Status.INVALID_MODEL_NAME,
                    f"the name {name!r} is taken: {held.path!r} was loaded as {held.load!r} "
                    f"with no_of_copies {held.copies}",
                )

    def add(self, action: LoadModelFromDisk, read: ModelRead) -> tuple[ModelInfo, ...]:
        """Make the models of an action that was checked; returns all of them, also those that were held already.

        Raises:
            ActionRefusedError: no device's cache is big enough, or the file has changed since the name was taken.
        """
        pages = pages_for(read.weights_bytes, self._page_size)
        if pages > self._largest_cache:
            raise ActionRefusedError(
                Status.MODEL_TOO_BIG,
                f"the weights of {action.path!r}, {show_bytes(read.weights_bytes)}, need {pages} pages of "
                f"{show_bytes(self._page_size)}; the largest weights cache here has {self._largest_cache}",
            )
        names = model_names(action.name, action.no_of_copies)
        for name in names:
            held = self._infos.get(name)
            if held is not None and held.digest != read.digest:
                text = f"the name {name!r} is taken: {action.path!r} has changed since it was loaded"
                raise ActionRefusedError(Status.INVALID_MODEL_NAME, text)
        for name in names:
            if name not in self._infos:
                self._infos[name] = _info(name, action, read, pages)
                self._handles[name] = read.handle
        return tuple(self._infos[name] for name in names)

    def forget(self, name: str) -> None:
        """The model is no longer held."""
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
    )
