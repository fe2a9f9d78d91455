"""PyTorch programs on a device compute the same outputs as on the CPU, in any pages of the cache."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu.asking import ask
from gpu.machines import MAX_BATCH, PAGE, TOLERANCE, Conv, Machine, free_bytes
from runtimes.torch.programs import Of, Wide, saved, saved_conv

import torch  # isort: skip - `programs` skips these tests without PyTorch

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.torch.cuda.runtime import CudaRuntime
from clockwork.units import MIB

STEPS = 3000
MODELS = 12
MAX_LEAK = 8 * MIB
"""Allowed growth: CUDA's own tables grow slightly; a page is twice as large."""


class Encoder(torch.nn.Module):
    """``x FP32[-1,10,32]`` to the same: attention, normalisation, products."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)


def rows_of(count: int, *shape: int) -> Any:
    return np.random.default_rng(count).standard_normal((count, *shape), np.float32)


def eager(module: torch.nn.Module, x: Any) -> dict[str, Any]:
    """Return the outputs that PyTorch computes on the CPU, by name; a single output without a name has the key ""."""
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(x))
    found = found if isinstance(found, dict) else {"": found}
    return {name: value.numpy() for name, value in found.items()}


def check(loaded: Any, name: str, x: Any, module: torch.nn.Module, kind: str) -> None:
    found, expected = ask(loaded, {name: x}), eager(module, x)
    if "" in expected:
        (found[""],) = found.values()
    for output, wanted in expected.items():
        np.testing.assert_allclose(found[output], wanted, **TOLERANCE[kind])


PROGRAMS = [
    pytest.param(Conv, "image", (3, 16, 16), id="conv"),
    pytest.param(Encoder, "x", (10, 32), id="transformer"),
    pytest.param(Wide, "x", (2048,), id="wide"),
]


@pytest.mark.parametrize(("make", "name", "shape"), PROGRAMS)
def test_a_program_computes_the_same_as_on_the_cpu(
    make: Any, name: str, shape: tuple[int, ...], kind: str, tmp_path: Path
) -> None:
    machine, module = Machine(kind), make()
    loaded = machine.runtime.load_model(saved(module, tmp_path / "m.pt2", (1, *shape))).load_weights(0)
    for rows in (1, 2, 3, MAX_BATCH, 2 * MAX_BATCH, 1):
        check(loaded, name, rows_of(rows, *shape), module, kind)
    loaded.close()
    del loaded
    machine.end()


def test_many_models_share_a_small_cache_for_thousands_of_loads(kind: str, tmp_path: Path) -> None:
    chance = random.Random(1)
    machine = Machine(kind, pages=3)
    modules = [Conv(seed) for seed in range(MODELS)]
    hosts = [machine.runtime.load_model(saved_conv(tmp_path / f"{seed}.pt2", seed)) for seed in range(MODELS)]
    inputs = {rows: rows_of(rows, 3, 16, 16) for rows in (1, 2, MAX_BATCH)}
    expected = {(seed, rows): eager(modules[seed], x) for seed in range(MODELS) for rows, x in inputs.items()}
    loaded: dict[int, Any] = {}
    loads = 0
    for _ in range(STEPS):
        seed = chance.randrange(MODELS)
        if seed not in loaded:
            if len(loaded) == 3:
                loaded.pop(chance.choice(list(loaded))).close()
            loaded[seed] = hosts[seed].load_weights(0)
            loads += 1
        rows = chance.choice(list(inputs))
        found = ask(loaded[seed], {"image": inputs[rows]})
        for name, wanted in expected[seed, rows].items():
            np.testing.assert_allclose(found[name], wanted, **TOLERANCE[kind])
    assert loads > STEPS // 2
    for model in loaded.values():
        model.close()
    del hosts, model
    loaded.clear()
    machine.end()


def test_two_copies_are_loaded_at_the_same_time(kind: str, tmp_path: Path) -> None:
    machine, module = Machine(kind), Conv()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    first, second = host.load_weights(0), host.load_weights(0)
    for loaded in (first, second, first):
        check(loaded, "image", rows_of(2, 3, 16, 16), module, kind)
    first.close()
    check(second, "image", rows_of(2, 3, 16, 16), module, kind)
    second.close()
    del host, first, second, loaded
    machine.end()


def test_a_program_that_cannot_be_captured_is_executed_operator_by_operator(kind: str, tmp_path: Path) -> None:
    machine = Machine(kind, capturable=False)
    module = Of(lambda module, x: x * torch.masked_select(x, x > 0).sum())  # the host must read the number of elements
    loaded = machine.runtime.load_model(saved(module, tmp_path / "m.pt2", (2, 8), batch=False)).load_weights(0)
    for _ in range(2):
        check(loaded, "x", rows_of(2, 8), module, kind)
    loaded.close()
    del loaded
    machine.end()


def test_weights_may_be_in_memory_that_is_not_pinned(kind: str, tmp_path: Path) -> None:
    machine, module = Machine(kind, pinned=0), Conv()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    check(loaded, "image", rows_of(1, 3, 16, 16), module, kind)
    loaded.close()
    del loaded
    machine.end()


def test_a_model_that_does_not_fit_does_not_affect_others(kind: str, tmp_path: Path) -> None:
    machine, module = Machine(kind, pages=2), Conv()
    wide = machine.runtime.load_model(saved(Wide(), tmp_path / "wide.pt2", (1, 2048)))  # slightly more than 64 MiB
    with pytest.raises(ServerError, match="pages"):
        wide.load_weights(0)
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    check(loaded, "image", rows_of(1, 3, 16, 16), module, kind)
    loaded.close()
    del wide, loaded
    machine.end()


def test_a_cache_larger_than_the_memory_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match="--cache-size"):
        Machine(kind, pages=1 << 20)


@pytest.mark.gpu
def test_memory_is_freed(tmp_path: Path) -> None:
    path = saved_conv(tmp_path / "m.pt2")

    def once() -> None:
        machine = Machine("cuda", pages=64)
        loaded = machine.runtime.load_model(path).load_weights(0)
        check(loaded, "image", rows_of(1, 3, 16, 16), Conv(), "cuda")
        loaded.close()
        del loaded
        machine.end()

    once()  # allocates the context, and memory that libraries keep
    before = free_bytes()
    for _ in range(5):
        once()
    assert before - free_bytes() < MAX_LEAK


@pytest.mark.gpu
def test_all_memory_is_allocated_at_the_start() -> None:
    free = free_bytes()
    runtime = CudaRuntime(1, PAGE, None, 0, 256 * MIB, 64 * MIB, MAX_BATCH)
    assert free_bytes() <= free - runtime.cache_bytes
    assert runtime.cache_bytes > free // 2
    assert runtime.device_kind == f"cuda {torch.cuda.get_device_name(0)}"
    runtime.close()
