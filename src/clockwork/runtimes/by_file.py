"""One runtime for ONNX models and PyTorch programs, so that one worker serves both.

Only the name of the file decides which library executes it. Importing PyTorch takes seconds and 200 MB, so it is
imported when the first PyTorch program is loaded. Both libraries use the same devices: threads on the same cores, one
inference at a time.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Final

from clockwork.runtimes.base import HostModel, Runtime
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.runtimes.locating import holds

PROGRAM: Final = ".pt2"
"""File name suffix of exported PyTorch programs. ONNX Runtime gets all other files."""


def is_program(path: Path) -> bool:
    """Whether the path is a PyTorch program, or a directory that holds one; see `clockwork.runtimes.locating`."""
    return holds(path, PROGRAM) if path.is_dir() else path.suffix == PROGRAM


class RuntimeByFile:
    """Executes each model with the library that its file name selects."""

    def __init__(self, onnx: Runtime, make_torch: Callable[[], Runtime]) -> None:
        """``make_torch`` is called at most once, for the first PyTorch program; it may raise InvalidModelError."""
        self._onnx = onnx
        self._make_torch = make_torch
        self._torch: Runtime | None = None
        self.links: LinkPolicy = NO_LINKS
        self._lock = Lock()

    @property
    def version(self) -> str:
        """Names and versions of the libraries imported so far: ``onnxruntime 1.32.0, torch 2.13.0``."""
        return ", ".join(runtime.version for runtime in (self._onnx, self._torch) if runtime is not None)

    @property
    def device_kind(self) -> str:
        """Hardware of the devices, which both libraries share."""
        return self._onnx.device_kind

    def load_model(self, path: Path, name: str = "") -> HostModel:
        """Read and prepare a model; see `clockwork.runtimes.base.Runtime`."""
        return self._runtime_of(path).load_model(path, name)

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file that a path means; see `clockwork.runtimes.base.Runtime`."""
        return self._runtime_of(path).locate(path, name)

    def _runtime_of(self, path: Path) -> Runtime:
        if not is_program(path):
            self._onnx.links = self.links
            return self._onnx
        with self._lock:
            if self._torch is None:
                self._torch = self._make_torch()
                self._torch.links = self.links
        return self._torch
