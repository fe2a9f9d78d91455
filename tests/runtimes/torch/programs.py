"""Small modules with seeded weights for exports. The import of this module skips tests if PyTorch is not installed."""

import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("torch") is None:
    pytest.skip("PyTorch is not installed: make test-torch", allow_module_level=True)

import torch
from torch import nn

from clockwork.runtimes.torch.exporting import Example, export


class Conv(nn.Module):
    """Maps ``image FP32[-1,3,16,16]`` to ``prob FP32[-1,5]`` and ``mean FP32[-1,8]``.

    It has parameters, buffers and a constant.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.dense = nn.Linear(8, 5)
        self.register_buffer("scale", torch.linspace(0.5, 2, 5))
        self.offset = torch.full((5,), 2.0)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        mean = self.norm(self.conv(image)).relu().mean((2, 3))
        return {"prob": self.dense(mean) * self.scale + self.offset + torch.arange(5), "mean": mean}


class Wide(nn.Module):
    """Takes ``x FP32[-1,2048]`` and has 64 MiB of weights."""

    def __init__(self, width: int = 2048, classes: int = 8192, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.dense = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> Any:
        return self.dense(x)


class Busy(Wide):
    """Like `Wide`, but with compiled functions, and with an output that is a part of the weights."""

    def forward(self, x: torch.Tensor) -> Any:
        gelu = nn.functional.gelu
        return gelu(self.dense(gelu(x))), self.dense.bias


class Of(nn.Module):
    """A module that calls a function with itself and its inputs."""

    def __init__(self, function: Any, **weights: Any) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_buffer(name, weight)
        self.function = function

    def forward(self, x: Any, y: Any = None) -> Any:
        return self.function(self, x) if y is None else self.function(self, x, y)


def saved(
    module: nn.Module,
    path: Path,
    *shapes: Sequence[int],
    dtype: Any = torch.float32,
    batch: bool | None = True,
    half: bool = False,
) -> Path:
    examples = [Example(tuple(shape), dtype) for shape in shapes]
    path.parent.mkdir(parents=True, exist_ok=True)
    export(module, examples, batch, half).save(path)
    return path


def saved_conv(path: Path, seed: int = 0) -> Path:
    return saved(Conv(seed), path, (1, 3, 16, 16))


def rewritten(
    path: Path,
    change: Callable[[str, bytes], bytes | None],
    compression: int = zipfile.ZIP_STORED,
    directory: Path | None = None,
) -> Path:
    """Return a copy of an archive. ``change`` returns the new content of each entry, or None to leave it out."""
    out = (directory or path.parent) / "changed.pt2"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", compression) as target:
        for entry in source.infolist():
            content = change(entry.filename.partition("/")[2], source.read(entry))
            if content is not None:
                target.writestr(entry.filename, content)
    return out


def saved_raw(module: nn.Module, path: Path, *arguments: Any, **more: Any) -> Path:
    """Export a module without the checks of `export`."""
    torch.export.save(torch.export.export(module, arguments, **more), str(path))
    return path
