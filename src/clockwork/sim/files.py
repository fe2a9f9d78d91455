"""The model files of simulated workers.

A scenario may add files while clients send requests. Some workers may be unable to read a file.
"""

from collections.abc import Iterator, Mapping

from clockwork.paced.models import PacedModel


class ModelFiles:
    """The files of all workers by path."""

    def __init__(self, models: Mapping[str, PacedModel]) -> None:
        """Start with files that every worker can read."""
        self._models = dict(models)
        self._broken: dict[str, frozenset[str]] = {}

    def add(self, model: PacedModel, broken: frozenset[str] = frozenset()) -> None:
        """Add a file. The workers in ``broken`` cannot read the file."""
        self._models[model.path] = model
        if broken:
            self._broken[model.path] = broken

    def of(self, worker: str) -> "WorkerFiles":
        """Return the files that a worker can read."""
        return WorkerFiles(worker, self._models, self._broken)


class WorkerFiles(Mapping[str, PacedModel]):
    """The files that one worker can read. This object always reflects the current state of `ModelFiles`."""

    def __init__(self, worker: str, models: Mapping[str, PacedModel], broken: Mapping[str, frozenset[str]]) -> None:
        """``broken`` contains, by path, the workers that cannot read the file."""
        self._worker = worker
        self._models = models
        self._broken = broken

    def __getitem__(self, path: str) -> PacedModel:
        """Return the model of a file."""
        if self._worker in self._broken.get(path, ()):
            raise KeyError(path)
        return self._models[path]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the paths."""
        return (path for path in self._models if self._worker not in self._broken.get(path, ()))

    def __len__(self) -> int:
        """Return the number of files."""
        return sum(1 for _ in self)
