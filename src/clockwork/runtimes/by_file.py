"""One runtime for both kinds of model files, so that one worker serves both.

Rules of the file: the name of a file decides, nothing else. PyTorch takes seconds and 200 MB to import, so that is done
when the first of its models comes. Devices are the same for both: threads on the same cores, one inference at a time.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Final

from clockwork.runtimes.base import HostModel, Runtime

PROGRAM: Final = ".pt2"
"""How the name of an exported PyTorch program ends; whatever else is for ONNX Runtime."""


def is_program(path: Path) -> bool:
    """Whether a path is one of a PyTorch program, or a directory of one; see `clockwork.runtimes.locating`."""
    if path.is_dir():
        return (path / f"model{PROGRAM}").exists() or any(path.glob(f"[0-9]*/model{PROGRAM}"))
    return path.suffix == PROGRAM


class RuntimeByFile:
    """See the module. ``make_torch`` is called once, if at all; it may raise InvalidModelError."""

    def __init__(self, onnx: Runtime, make_torch: Callable[[], Runtime]) -> None:
        self._onnx = onnx
        self._make_torch = make_torch
        self._torch: Runtime | None = None
        self._lock = Lock()

    @property
    def version(self) -> str:
        """Name and version of what runs already: ``onnxruntime 1.32.0``, ``onnxruntime 1.32.0, torch 2.13.0``."""
        return ", ".join(it.version for it in (self._onnx, self._torch) if it is not None)

    @property
    def device_kind(self) -> str:
        """The hardware of the devices, which both share."""
        return self._onnx.device_kind

    def load_model(self, path: Path, name: str = "") -> HostModel:
        """Read and prepare a model; see `clockwork.runtimes.base.Runtime`."""
        if not is_program(path):
            return self._onnx.load_model(path, name)
        with self._lock:
            if self._torch is None:
                self._torch = self._make_torch()
        return self._torch.load_model(path, name)
