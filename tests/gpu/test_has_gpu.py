"""``tools/has_gpu.py``, which ``make test-gpu`` runs first."""

import ctypes
import runpy
from typing import Any

import pytest

from gpu.conftest import TOOL


class Cuda:
    """A fake of the driver's library."""

    def __init__(self, init: int = 0, count: int = 1) -> None:
        self._init = init
        self._count = count

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's name
        return self._init

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        if self._init:
            return 3
        count._obj.value = self._count
        return 0


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (Cuda(), ""),
        (Cuda(count=0), "the CUDA driver finds no device; check CUDA_VISIBLE_DEVICES"),
        (Cuda(init=100), "the CUDA driver cannot be used: cuInit failed with error 100 (nvidia-smi may show more)"),
        (None, "there is no CUDA driver on this machine (libcuda.so.1)"),
    ],
)
def test_the_missing_part_is_named(library: Cuda | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> Cuda:
        assert name == "libcuda.so.1"
        if library is None:
            raise OSError("no such file")
        return library

    monkeypatch.setattr(ctypes, "CDLL", found)
    assert runpy.run_path(str(TOOL))["missing"]() == words


def test_a_missing_part_ends_the_program_with_the_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Cuda(count=0))
    with pytest.raises(SystemExit, match="make test-gpu needs an NVIDIA GPU, its driver"):
        runpy.run_path(str(TOOL), run_name="__main__")
