"""Exported programs that are proved to compute each row independently, and the reasons for the others."""

import operator
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.torch.programs import Of, saved

import torch  # isort: skip - `programs` skips these tests without PyTorch
from torch import nn

from clockwork.runtimes.batching import BatchingOptions
from clockwork.runtimes.torch import TorchRuntime
from clockwork.runtimes.torch.program import to_program
from clockwork.runtimes.torch.rows import analyse


class First(nn.Module):
    """Returns the first output of a module that gets the same tensor for each of its inputs."""

    def __init__(self, module: nn.Module, inputs: int = 1) -> None:
        super().__init__()
        self.module = module
        self.inputs = inputs

    def forward(self, x: torch.Tensor) -> Any:
        return self.module(*[x] * self.inputs)[0]


def proof(module: Any, *shape: int) -> Any:
    made_module = module if isinstance(module, nn.Module) else Of(lambda _, x: module(x))
    dims = ({0: torch.export.Dim("rows")},)
    if isinstance(made_module, Of):
        dims = ({0: torch.export.Dim("rows")}, None)  # type: ignore[assignment] # the second input is missing
    arguments = (torch.randn(3, *shape), None) if isinstance(made_module, Of) else (torch.randn(3, *shape),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recurrent layers also keep their weights in a list
        exported = torch.export.export(made_module.eval(), arguments, dynamic_shapes=dims)
    return analyse(to_program(exported))


ENCODER = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
SEQUENCES_FIRST = nn.TransformerEncoderLayer(32, 4, 64)

PROVED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear layers": (nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 4), nn.Softmax(-1)), (8,)),
    "a convolutional network": (
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(8, 4), nn.Dropout(0.5)),
        ),
        (3, 16, 16),
    ),
    "normalisation and upsampling": (
        nn.Sequential(
            *(nn.GroupNorm(1, 3), nn.InstanceNorm2d(3), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(3, 4, 2)),
            *(nn.PixelShuffle(2), nn.ReflectionPad2d(1)),
        ),
        (3, 16, 16),
    ),
    "a transformer": (nn.TransformerEncoder(ENCODER, 2, enable_nested_tensor=False), (10, 32)),
    "attention": (First(nn.MultiheadAttention(32, 4, batch_first=True), 3), (10, 32)),
    "LSTM": (First(nn.LSTM(32, 16, batch_first=True, bidirectional=True)), (10, 32)),
    "GRU": (First(nn.GRU(32, 16, batch_first=True)), (10, 32)),
    "a token before each sequence": (
        lambda x: torch.cat([torch.ones(1, 1, 32).expand(x.shape[0], -1, -1), x], 1)[:, 0],
        (10, 32),
    ),
    "parts of columns": (
        lambda x: torch.cat([part * 2 for part in x.chunk(2, 1)], 1).view(x.shape[0], 2, -1).sum(-1),
        (8,),
    ),
    "masks": (lambda x: torch.where(x > 0, x, 0.0).masked_fill(x > 1, 2.0), (8,)),
    "columns by index": (lambda x: x[:, [1, 0, 3]], (8,)),
    "in-place operators": (lambda x: torch.zeros(x.shape[0], 8).add_(x).mul_(2), (8,)),
    "positions": (lambda x: x + torch.arange(x.shape[1]), (8,)),
    "einsum": (lambda x: torch.einsum("btd,bsd->bts", x, x), (10, 32)),
}

MIXED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "cumsum": (lambda x: x.cumsum(0), (8,)),
    "topk": (lambda x: x.topk(2, 0)[1], (8,)),
    "mean": (lambda x: x - x.mean(), (8,)),
    "argsort": (lambda x: x.argsort(0), (8,)),
    "mul": (lambda x: x * x.shape[0], (8,)),
    "arange": (lambda x: x + torch.arange(x.shape[0])[:, None], (8,)),
    "flip": (lambda x: x.flip(0), (8,)),
    "matmul": (lambda x: x @ x.T, (8,)),
    "rand_like": (lambda x: x + torch.rand_like(x), (8,)),
    "index": (lambda x: x[[1, 0, 2]], (8,)),
    "softmax": (lambda x: x.softmax(0), (8,)),
    "tril": (lambda x: x.tril(x.shape[0]), (8, 8)),
    "scaled_dot_product_attention": (nn.TransformerEncoder(SEQUENCES_FIRST, 1, enable_nested_tensor=False), (10, 32)),
}


@pytest.mark.parametrize("name", PROVED)
def test_a_program_that_computes_each_row_independently_is_proved(name: str) -> None:
    module, shape = PROVED[name]
    assert proof(module, *shape).reason == ""


@pytest.mark.parametrize("name", MIXED)
def test_an_operator_that_mixes_rows_is_named(name: str) -> None:
    module, shape = MIXED[name]
    found = proof(module, *shape)
    assert found.mixes
    assert found.reason.startswith(f"aten.{name} '")


def test_an_operator_without_a_rule_proves_nothing() -> None:
    found = proof(torch.linalg.matrix_exp, 4, 4)
    assert (found.proved, found.mixes) == (False, False)
    assert found.reason.endswith("is an operator without a rule")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda module, x: (8 * x).long().cumsum(0), "aten.cumsum 'cumsum' computes across rows (axis 0)"),
        (lambda module, x: x.argsort(0), "aten.argsort 'argsort' computes across rows (axis 0)"),
        (lambda module, x: operator.ge(x, x.amax(0)), "aten.amax 'amax' computes across rows (axis 0)"),
        (lambda module, x: x + 0.08 * x.cumsum(0), "aten.cumsum 'cumsum' computes across rows (axis 0)"),
    ],
)
def test_a_program_that_mixes_rows_is_never_batched(function: Any, why: str, tmp_path: Path) -> None:
    path = saved(Of(function), tmp_path / "m.pt2", (1, 8))
    runtime = TorchRuntime(batching=BatchingOptions(allowed=frozenset({"m"})))
    for name in ("m", "other"):
        info = runtime.load_model(path, name).info
        assert (info.batchable, info.unbatched) == (False, why)


def test_the_batching_options_apply_to_programs(tmp_path: Path) -> None:
    path = saved(Of(lambda _, x: x * 2), tmp_path / "m.pt2", (1, 8))
    runtime = TorchRuntime(batching=BatchingOptions(never=frozenset({"m"})))
    plain, never = runtime.load_model(path), runtime.load_model(path, "m")
    assert plain.info.batchable
    assert never.info.unbatched == "--no-batching names it"
    assert plain.info.digest != never.info.digest
    assert np.array_equal(never.load_weights(0).execute({"x": np.ones((1, 8), np.float32)})[0], np.full((1, 8), 2))
