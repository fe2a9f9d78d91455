"""A runtime that executes both ONNX models and PyTorch programs, so that one worker can serve both.

The suffix of a file's name decides which library executes the file. The import of PyTorch takes seconds and 200 MB, so
PyTorch is imported when the first PyTorch program is loaded. Both libraries use the same cores, and a device executes
one inference at a time.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Final

from clockwork.runtimes.base import HostModel, Runtime
from clockwork.runtimes.links import NO_LINKS, LinkPolicy
from clockwork.runtimes.locating import holds

PROGRAM: Final = ".pt2"
"""File name suffix of exported PyTorch programs. ONNX Runtime executes all other files."""


def is_program(path: Path) -> bool:
    """Return whether the model at a path is a PyTorch program.

    For directories, `clockwork.runtimes.locating` has the rules.
    """
    return holds(path, PROGRAM) if path.is_dir() else path.suffix == PROGRAM


class RuntimeByFile:
    """Executes each model with the library that its file name selects."""

    def __init__(self, onnx: Runtime, make_torch: Callable[[], Runtime]) -> None:
        """``make_torch`` makes the runtime for PyTorch programs.

        ``make_torch`` is called at most once, and may raise InvalidModelError.
        """
        self._onnx = onnx
        self._make_torch = make_torch
        self._torch: Runtime | None = None
        self.links: LinkPolicy = NO_LINKS
        self._lock = Lock()

    @property
    def version(self) -> str:
        """Names and versions of the libraries imported so far, such as ``onnxruntime 1.32.0, torch 2.13.0``."""
        return ", ".join(runtime.version for runtime in (self._onnx, self._torch) if runtime is not None)

    @property
    def device_kind(self) -> str:
        """Name of the hardware and number of threads of a device. Both libraries share the devices."""
        return self._onnx.device_kind

    def load_model(self, path: Path, name: str = "", *, isolated: bool = False) -> HostModel:
        """Read and prepare a model; see `clockwork.runtimes.base.Runtime`."""
        return self._runtime_of(path).load_model(path, name, isolated=isolated)

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file for a path; see `clockwork.runtimes.base.Runtime`."""
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
