"""Programs on CUDA devices, with host memory for the devices: everything but CUDA itself."""

import gc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.torch.fake_driver import FakeDriver, FakeExecutor
from runtimes.torch.programs import Conv, Wide, saved, saved_conv

import torch  # isort: skip - `programs` skips these tests where there is none

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.torch import TorchRuntime
from clockwork.runtimes.torch.cuda.bindings import CudaDriver
from clockwork.runtimes.torch.cuda.runtime import CudaRuntime, torch_executor
from clockwork.runtimes.torch.moving import move
from clockwork.runtimes.torch.program import load
from clockwork.units import GIB, MIB

PAGE = 16 * MIB


class Machine:
    """A runtime, and the fakes below it."""

    def __init__(self, devices: int = 1, pages: int = 8, capturable: bool = True, pinned: int = GIB) -> None:
        self.drivers = [FakeDriver() for _ in range(devices)]
        self.executors = [FakeExecutor(capturable) for _ in range(devices)]
        self.runtime = CudaRuntime(
            devices,
            PAGE,
            pages * PAGE,
            pinned,
            make_driver=self.drivers.__getitem__,
            make_executor=self.executors.__getitem__,
        )

    def end(self) -> None:
        gc.collect()
        self.runtime.close()
        for driver in self.drivers:
            driver.check_nothing_is_left()


def images(rows: int) -> Any:
    return np.random.default_rng(rows).random((rows, 3, 16, 16), np.float32)


def eager(image: Any, seed: int = 0) -> Any:
    with torch.no_grad():
        return Conv(seed).eval()(torch.from_numpy(image))["prob"].numpy()


def check(loaded: Any, rows: int, seed: int = 0) -> None:
    found = loaded.execute({"image": images(rows)})[0]
    np.testing.assert_allclose(found, eager(images(rows), seed), rtol=1e-5, atol=1e-6)


def test_it_computes_what_the_cpu_computes_and_captures_each_shape_once(tmp_path: Path) -> None:
    machine = Machine()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    assert host.info == TorchRuntime().load_model(tmp_path / "m.pt2").info
    assert host.pinned
    loaded = host.load_weights(0)
    for _ in range(3):
        for rows in (1, 2, 4):
            check(loaded, rows)
    assert (machine.executors[0].captures, machine.executors[0].replays) == (3, 9)
    assert loaded.copied > 0
    loaded.close()
    del host, loaded
    machine.end()


def test_weights_that_come_back_lie_where_they_lay_and_graphs_stay(tmp_path: Path) -> None:
    machine = Machine(pages=1)
    paths = [saved_conv(tmp_path / f"{seed}.pt2", seed) for seed in range(3)]
    models = [machine.runtime.load_model(path) for path in paths]
    for _ in range(3):
        for seed, host in enumerate(models):
            loaded = host.load_weights(0)
            check(loaded, 2, seed)
            loaded.close()
    assert machine.executors[0].captures == 3
    assert len(machine.drivers[0].memory) == 3
    del models, host, loaded
    machine.end()


def test_copies_that_are_loaded_at_once_have_ranges_of_their_own_with_graphs_ready(tmp_path: Path) -> None:
    machine = Machine()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    first = host.load_weights(0)
    check(first, 1)
    check(first, 2)
    second = host.load_weights(0)
    assert machine.executors[0].captures == 4
    first.close()
    check(second, 1)
    check(second, 2)
    assert machine.executors[0].captures == 4
    third = host.load_weights(0)
    assert len(machine.drivers[0].memory) == 2
    check(third, 2)
    second.close()
    third.close()
    del host, first, second, third
    machine.end()


def test_evicted_weights_are_gone(tmp_path: Path) -> None:
    machine = Machine()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    loaded = host.load_weights(0)
    check(loaded, 1)
    slot = loaded._slot
    loaded.close()
    assert not machine.drivers[0].mapped
    assert torch.isnan(slot.graphs.run([torch.from_numpy(images(1))])[0]).all()
    del host, loaded, slot
    machine.end()


def test_a_full_cache_refuses_and_nothing_is_lost(tmp_path: Path) -> None:
    machine = Machine(pages=5)
    host = machine.runtime.load_model(saved(Wide(), tmp_path / "m.pt2", (1, 2048)))  # 64 MiB and a little
    loaded = host.load_weights(0)
    with pytest.raises(
        ServerError, match=r"could not be loaded on device 0: 5 pages are needed on fake device; 0 are f"
    ):
        host.load_weights(0)
    loaded.close()
    host.load_weights(0).close()
    del host, loaded
    machine.end()


@pytest.mark.parametrize("failing", ["reserve", "map", "allow", "record", "copy_to_device", "wait", "elapsed"])
def test_a_call_that_fails_leaves_everything_as_it_was(failing: str, tmp_path: Path) -> None:
    machine = Machine()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    machine.drivers[0].failing = failing
    with pytest.raises(ServerError, match=f"{failing} failed with CUDA_ERROR_UNKNOWN"):
        host.load_weights(0)
    assert not machine.drivers[0].mapped
    loaded = host.load_weights(0)
    check(loaded, 1)
    loaded.close()
    del host, loaded
    machine.end()


def test_what_cannot_be_captured_is_executed_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(capturable=False)
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    for rows in (1, 2, 1):
        check(loaded, rows)
    assert "not permitted when stream is capturing" in loaded.fallback
    assert len([it for it in caplog.records if "no graph of it can be captured" in it.getMessage()]) == 1
    loaded.close()
    del loaded
    machine.end()


def test_devices_are_independent(tmp_path: Path) -> None:
    machine = Machine(devices=2)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    first, second = host.load_weights(0), host.load_weights(1)
    first.close()
    check(second, 2)
    assert machine.drivers[1].mapped
    second.close()
    del host, first, second
    machine.end()


def test_memory_that_is_not_pinned_will_do(tmp_path: Path) -> None:
    machine = Machine(pinned=0)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    assert not host.pinned
    loaded = host.load_weights(0)
    check(loaded, 1)
    loaded.close()
    del host, loaded
    machine.end()


def test_shapes_that_do_not_fit_are_the_requests_fault(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    with pytest.raises(InvalidRequestError):
        loaded.execute({"image": np.zeros((1, 3, 16), np.float32)})
    loaded.close()
    del loaded
    machine.end()


def test_the_cache_is_a_part_of_what_is_free_if_nothing_is_said() -> None:
    driver = FakeDriver(limit=100)
    runtime = CudaRuntime(
        1, PAGE, None, 0, make_driver=lambda index: driver, make_executor=lambda index: FakeExecutor()
    )
    assert runtime.cache_bytes == 10 * PAGE  # 0.8 of 200 MiB
    assert runtime.device_kind == "cuda fake device"
    runtime.close()
    driver.check_nothing_is_left()


def test_devices_of_one_worker_are_of_one_kind() -> None:
    drivers = [FakeDriver(), FakeDriver()]
    drivers[1].name = "another"
    with pytest.raises(InvalidRequestError, match="are of one kind; found another, fake device"):
        CudaRuntime(2, PAGE, PAGE, 0, make_driver=drivers.__getitem__, make_executor=lambda index: FakeExecutor())


def test_what_a_program_makes_while_it_runs_is_made_on_the_device(tmp_path: Path) -> None:
    program = load(saved_conv(tmp_path / "m.pt2"))
    move(program, "meta")
    assert "device(type='meta')" in program.graph.code
    assert "device(type='cpu')" not in program.graph.code
    weights = program.layout.tensors(torch.empty(program.layout.nbytes, dtype=torch.uint8, device="meta"))
    arguments = program.arguments(weights)
    arguments[program.input_slots[0]] = torch.empty(2, 3, 16, 16, device="meta")
    assert [it.device.type for it in program.forward(*arguments)] == ["meta", "meta"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this is PyTorch's CUDA build")
def test_a_cpu_build_says_so() -> None:
    with pytest.raises(
        InvalidRequestError, match="was built without CUDA: install its CUDA build, or use --device cpu"
    ):
        torch_executor(0)


@pytest.mark.skipif(find_spec("cuda") is not None, reason="cuda-bindings are installed")
def test_without_bindings_it_is_said_how_to_get_them() -> None:
    with pytest.raises(InvalidRequestError, match=r"pip install 'clockwork-serve\[cuda\]'"):
        CudaDriver(0)
