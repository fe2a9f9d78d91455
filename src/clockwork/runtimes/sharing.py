"""Models in host memory, shared by their content.

Rules of the file: a model is dropped when nothing refers to it any more. Models are made one at a time, because making
one takes several times its size of memory.
"""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

ModelT = TypeVar("ModelT")


class ModelsInUse(Generic[ModelT]):
    """The models that something refers to, by digest. Safe to call from any thread."""

    def __init__(self) -> None:
        """Start with no models."""
        self._lock = Lock()
        self._models: WeakValueDictionary[str, ModelT] = WeakValueDictionary()

    def get(self, digest: str, make: Callable[[], ModelT]) -> ModelT:
        """Return the model with this digest; call ``make`` for one that is not in use."""
        with self._lock:
            model = self._models.get(digest)
            if model is None:
                model = self._models[digest] = make()
        return model
