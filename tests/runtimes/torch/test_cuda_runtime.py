"""Programs on CUDA devices, which are simulated with host memory: everything but CUDA itself."""

import gc
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.torch.programs import Conv, Of, Wide, saved, saved_conv

import torch  # isort: skip - `programs` skips these tests without PyTorch
from runtimes.torch.fake_driver import FakeDriver, FakeExecutor  # isort: skip

from clockwork.errors import DeviceLostError, InvalidModelError, InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import spec
from clockwork.runtimes.torch import TorchRuntime
from clockwork.runtimes.torch.cuda import staging
from clockwork.runtimes.torch.cuda.bindings import CudaDriver
from clockwork.runtimes.torch.cuda.executor import TorchExecutor
from clockwork.runtimes.torch.cuda.runtime import CudaRuntime
from clockwork.runtimes.torch.moving import move
from clockwork.runtimes.torch.program import load
from clockwork.units import GIB, MIB

PAGE = 16 * MIB
IO = 10 * MIB  # 1 MiB for each batch
HAS_BINDINGS = find_spec("cuda") is not None and find_spec("cuda.bindings") is not None


class Machine:
    """A runtime with a fake driver and executor."""

    def __init__(
        self, devices: int = 1, pages: int = 8, pinned: int = GIB, io: int = IO, max_batch: int = 4, **more: Any
    ) -> None:
        self.drivers = [FakeDriver() for _ in range(devices)]
        for driver in self.drivers:
            driver.attach()
        self.executors = [FakeExecutor(driver, **more) for driver in self.drivers]
        self.runtime = CudaRuntime(
            devices,
            PAGE,
            pages * PAGE,
            pinned,
            workspace_bytes=GIB,
            io_bytes=io,
            max_batch=max_batch,
            make_driver=self.drivers.__getitem__,
            make_executor=lambda index, workspace: self.executors[index],
        )
        for device, executor in zip(self.runtime.devices, self.executors, strict=True):
            executor.area = device.staging.output_area

    @property
    def captures(self) -> int:
        return self.executors[0].captures

    @property
    def replays(self) -> int:
        return self.executors[0].replays

    def end(self) -> None:
        gc.collect()
        self.runtime.close()
        for driver in self.drivers:
            driver.check_nothing_is_left()


def images(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(10 * rows + seed).random((rows, 3, 16, 16), np.float32)


def eager(image: Any, seed: int = 0) -> Any:
    with torch.no_grad():
        return Conv(seed).eval()(torch.from_numpy(image))["prob"].numpy()


def requests_of(arrays: Sequence[Any], name: str = "image") -> tuple[list[InferInput], list[bytes]]:
    inputs = [InferInput(i, len(array), (spec(name, "FP32", array.shape),)) for i, array in enumerate(arrays)]
    return inputs, [array.tobytes() for array in arrays]


def answers(loaded: Any, arrays: Sequence[Any], name: str = "image") -> list[Any]:
    """Return the first output of each request."""
    inputs, payloads = requests_of(arrays, name)
    found = loaded.split(inputs, loaded.execute(loaded.assemble(inputs, payloads)))
    return [np.frombuffer(buffers[0], np.float32).reshape(specs[0].shape) for specs, buffers in found]


def check(loaded: Any, *rows: int, seed: int = 0) -> None:
    """Execute requests with these numbers of rows in one batch, and check their outputs."""
    arrays = [images(count, i) for i, count in enumerate(rows)]
    for array, found in zip(arrays, answers(loaded, arrays), strict=True):
        np.testing.assert_allclose(found, eager(array, seed), rtol=1e-5, atol=1e-6)


def test_code_compiled_for_cpus_is_refused(compiled_conv: Path) -> None:
    machine = Machine(max_batch=2)
    with pytest.raises(InvalidModelError, match=r"'m.pt2' contains code compiled for CPUs, which GPUs cannot run"):
        machine.runtime.load_model(compiled_conv)
    machine.end()


def test_graphs_of_all_sizes_are_captured_when_the_model_is_read_and_none_later(tmp_path: Path) -> None:
    machine = Machine(max_batch=8)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    assert host.info == TorchRuntime().load_model(tmp_path / "m.pt2").info
    assert host.pinned
    assert not machine.drivers[0].mapped
    assert machine.captures == 4
    tried = machine.replays
    loaded = host.load_weights(0)
    for rows in ((1,), (2,), (1, 1, 2), (8,), (4, 4)):
        check(loaded, *rows)
    assert machine.captures == 4
    assert machine.replays == tried + 5
    assert loaded.copied > 0
    loaded.close()
    del host, loaded
    machine.end()


@pytest.mark.parametrize("rows", [(3,), (1, 2), (1, 1, 1), (2, 3), (5, 1, 1)])
def test_a_batch_between_two_sizes_is_padded(rows: tuple[int, ...], tmp_path: Path) -> None:
    machine = Machine(max_batch=8)
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    eagers = machine.executors[0].eagers
    check(loaded, *rows)
    assert machine.executors[0].eagers == eagers
    loaded.close()
    del loaded
    machine.end()


def test_padding_rows_are_valid_inputs(tmp_path: Path) -> None:
    """Random values would be indices outside the table."""
    machine = Machine(max_batch=4)
    table = Of(lambda self, x: self.table[x.long()], table=torch.arange(6.0).reshape(3, 2))
    loaded = machine.runtime.load_model(saved(table, tmp_path / "m.pt2", (1, 2))).load_weights(0)
    machine.runtime.devices[0].staging._host.fill_(0x4B)  # as floats: several millions
    x = np.array([[2, 1], [0, 2], [1, 1]], np.float32)
    (found,) = answers(loaded, [x], "x")
    np.testing.assert_array_equal(found, np.arange(6.0).reshape(3, 2)[x.astype(int)])
    loaded.close()
    del loaded
    machine.end()


def test_a_batch_larger_than_the_captured_ones_is_executed_without_a_graph(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(max_batch=2)
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    check(loaded, 3)
    check(loaded, 4)
    assert machine.captures == 2
    warnings = [record.getMessage() for record in caplog.records if "has no graph for inputs" in record.getMessage()]
    assert warnings == [
        "model m.pt2 has no graph for inputs of shapes [(3, 3, 16, 16)] and executes them operator by operator"
    ]
    loaded.close()
    del loaded
    machine.end()


def test_batches_may_be_assembled_early_and_split_late(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    arrays = [images(rows) for rows in (1, 2, 4)]
    batches = [loaded.assemble(*requests_of([array])) for array in arrays]
    outputs = [loaded.execute(batch) for batch in batches]
    for array, output in reversed(list(zip(arrays, outputs, strict=True))):
        (((_, buffers),)) = loaded.split(requests_of([array])[0], output)
        found = np.frombuffer(buffers[0], np.float32).reshape(-1, 5)
        np.testing.assert_allclose(found, eager(array), rtol=1e-5, atol=1e-6)
    loaded.close()
    del loaded, batches, outputs, output
    machine.end()


def test_a_batch_may_be_executed_twice_and_be_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_SLOT_WAIT", 0.01)
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    for _ in range(3 * staging.SLOTS):
        loaded.assemble(*requests_of([images(2)]))
        batch = loaded.assemble(*requests_of([images(1)]))
        loaded.execute(batch)
        loaded.execute(batch)
    check(loaded, 2)
    held = [loaded.assemble(*requests_of([images(1)])) for _ in range(staging.SLOTS - 1)] + [batch]
    with pytest.raises(ServerError, match=r"no memory for inputs became free within 0.01 s"):
        loaded.assemble(*requests_of([images(1)]))
    held.clear()
    del batch
    check(loaded, 1)
    loaded.close()
    del loaded
    machine.end()


def test_the_device_has_finished_when_an_inference_returns(tmp_path: Path) -> None:
    """The time of the thread is then that of the inference, and weights can be evicted."""
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    inputs, payloads = requests_of([images(2)])
    batch = loaded.assemble(inputs, payloads)
    outputs = loaded.execute(batch)
    assert not machine.drivers[0].streams[machine.executors[0].stream]
    loaded.close()
    ((_, (buffer, *_)),) = loaded.split(inputs, outputs)
    np.testing.assert_allclose(np.frombuffer(buffer, np.float32).reshape(2, 5), eager(images(2)), rtol=1e-5, atol=1e-6)
    del loaded, batch, outputs
    machine.end()


@pytest.mark.parametrize("hasty", [(0,), (1,), (2,), (0, 1, 2)])
def test_events_alone_order_the_streams(hasty: tuple[int, ...], tmp_path: Path) -> None:
    machine = Machine()
    device = machine.runtime.devices[0]
    streams = (device._load, device._input, device._output)
    machine.drivers[0].hasty = {streams[i] for i in hasty}
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    for rows in (1, 2, 3):
        check(loaded, rows)
    loaded.close()
    del loaded
    machine.end()


def test_later_batches_do_not_change_earlier_outputs(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    found = [answers(loaded, [images(1, seed)])[0] for seed in range(2 * staging.SLOTS)]
    for seed, outputs in enumerate(found):
        np.testing.assert_allclose(outputs, eager(images(1, seed)), rtol=1e-5, atol=1e-6)
    loaded.close()
    del loaded
    machine.end()


def test_the_time_on_the_device_is_reported_with_its_clock_frequency(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    assert loaded.uploads
    inputs, payloads = requests_of([images(2)])
    outputs = loaded.execute(loaded.assemble(inputs, payloads))
    loaded.split(inputs, outputs)
    time = loaded.device_time(outputs)
    assert time.duration > 0
    assert time.clock_mhz == 1980
    loaded.close()
    del loaded, outputs
    machine.end()


def test_reloaded_weights_have_the_same_addresses_and_graphs(tmp_path: Path) -> None:
    machine = Machine(pages=1)
    paths = [saved_conv(tmp_path / f"{seed}.pt2", seed) for seed in range(3)]
    models = [machine.runtime.load_model(path) for path in paths]
    for _ in range(3):
        for seed, host in enumerate(models):
            loaded = host.load_weights(0)
            check(loaded, 2, seed=seed)
            loaded.close()
    assert machine.captures == 9
    assert len(machine.drivers[0].memory) == 3
    del models, host, loaded
    machine.end()


def test_a_model_without_free_pages_is_captured_by_its_first_load(tmp_path: Path) -> None:
    machine = Machine(pages=1)
    first = machine.runtime.load_model(saved_conv(tmp_path / "0.pt2", 0)).load_weights(0)
    second = machine.runtime.load_model(saved_conv(tmp_path / "1.pt2", 1))
    assert machine.captures == 3
    first.close()
    loaded = second.load_weights(0)
    assert machine.captures == 6
    check(loaded, 1, seed=1)
    loaded.close()
    second.load_weights(0).close()
    assert machine.captures == 6
    del first, second, loaded
    machine.end()


def test_copies_have_their_own_pages_and_share_graphs(tmp_path: Path) -> None:
    machine = Machine()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    copies = [host.load_weights(0) for _ in range(3)]
    assert len(machine.drivers[0].mapped) == 3
    assert machine.runtime.devices[0].cache.free == 5
    for at in (0, 1, 2):  # unload in the order of loading
        for copy in copies[at:]:
            check(copy, 2)
        copies[at].close()
        assert len(machine.drivers[0].mapped) == 2 - at
    assert machine.captures == 3
    for copy in [host.load_weights(0) for _ in range(3)]:
        check(copy, 1)
        copy.close()
    assert len(machine.drivers[0].memory) == 3
    del host, copies, copy
    machine.end()


def test_evicted_weights_are_unmapped(tmp_path: Path) -> None:
    machine = Machine()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    loaded = host.load_weights(0)
    check(loaded, 1)
    loaded.close()
    loaded.close()
    assert not machine.drivers[0].mapped
    (found,) = answers(loaded, [images(1)])
    assert np.isnan(found).all()
    del host, loaded
    machine.end()


def test_a_full_cache_refuses_a_load_and_keeps_the_others(tmp_path: Path) -> None:
    machine = Machine(pages=5)
    host = machine.runtime.load_model(saved(Wide(), tmp_path / "m.pt2", (1, 2048)))  # slightly more than 64 MiB
    loaded = host.load_weights(0)
    with pytest.raises(
        ServerError, match=r"could not load .* of weights on device 0: weights need 5 pages of fake device; 0 are f"
    ):
        host.load_weights(0)
    loaded.close()
    host.load_weights(0).close()
    del host, loaded
    machine.end()


@pytest.mark.parametrize("failing", ["map", "allow", "record", "copy_to_device", "wait", "elapsed"])
def test_a_load_that_fails_changes_nothing(failing: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("failing", ["follow", "record", "copy_on_device", "copy_to_host", "wait"])
def test_an_inference_that_fails_is_reported_and_the_next_succeeds(failing: str, tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    for _ in range(2 * staging.SLOTS):
        batch = loaded.assemble(*requests_of([images(1)]))
        machine.drivers[0].failing = failing
        with pytest.raises(ServerError, match=f"the inference failed: {failing} failed with CUDA_ERROR_UNKNOWN"):
            loaded.execute(batch)
    check(loaded, 2)
    loaded.close()
    del loaded, batch
    machine.end()


@pytest.mark.parametrize("step", ["load_model", "load_weights", "assemble", "execute", "split", "close"])
def test_a_lost_device_is_reported_at_every_step(step: str, tmp_path: Path) -> None:
    machine = Machine()
    driver = machine.drivers[0]
    path = saved_conv(tmp_path / "m.pt2")
    another = saved_conv(tmp_path / "n.pt2", 1)
    host = machine.runtime.load_model(path)
    loaded = host.load_weights(0)
    inputs, payloads = requests_of([images(1)])
    batch = loaded.assemble(inputs, payloads)
    outputs = loaded.execute(batch)
    driver.lost = "CUDA_ERROR_ILLEGAL_ADDRESS"
    steps: dict[str, Any] = {
        "load_model": lambda: machine.runtime.load_model(another),
        "load_weights": lambda: host.load_weights(0),
        "assemble": lambda: loaded.assemble(inputs, payloads),
        "execute": lambda: loaded.execute(batch),
        "split": lambda: loaded.split(inputs, outputs),
        "close": loaded.close,
    }
    with pytest.raises(DeviceLostError, match=r"a CUDA device is lost .* CUDA_ERROR_ILLEGAL_ADDRESS"):
        steps[step]()


def test_an_error_of_pytorch_that_loses_the_device_raises_device_lost(tmp_path: Path) -> None:
    machine = Machine(max_batch=1)
    table = Of(lambda self, x: self.table[x.long()], table=torch.arange(3.0))
    loaded = machine.runtime.load_model(saved(table, tmp_path / "m.pt2", (1, 2))).load_weights(0)
    batch = loaded.assemble(*requests_of([np.array([[9, 9]], np.float32)], "x"))
    with pytest.raises(InvalidRequestError, match="index 9 is out of bounds"):
        loaded.execute(batch)  # the same error as on a CPU
    checks = []
    machine.drivers[0].check = lambda: checks.append(True)  # type: ignore[method-assign]
    with pytest.raises(InvalidRequestError):
        loaded.execute(batch)
    assert checks == [True]


def test_a_program_that_cannot_be_captured_is_executed_operator_by_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(capturable=False)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    loaded = host.load_weights(0)
    for rows in (1, 2, 3, 1):
        check(loaded, rows)
    assert "not permitted when stream is capturing" in loaded.fallback
    assert host.info.note == "no CUDA graph: operation not permitted when stream is capturing"
    assert len([record for record in caplog.records if "cannot be captured as a graph" in record.getMessage()]) == 1
    loaded.close()
    del host, loaded
    machine.end()


def test_a_graph_with_other_outputs_is_not_used(tmp_path: Path) -> None:
    machine = Machine(wrong=1000)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    assert host.info.note == "no CUDA graph: a graph computes other outputs"
    loaded = host.load_weights(0)
    check(loaded, 2)
    loaded.close()
    del host, loaded
    machine.end()


def test_the_error_for_too_little_memory_for_graphs_names_the_options(tmp_path: Path) -> None:
    machine = Machine(room=1)
    with pytest.raises(
        ServerError,
        match=r"device 0 \(fake device\) has too little memory to capture a graph of m\.pt2 for 2 rows: .* "
        r"are free; use a smaller --cache-size \(now 128.0 MiB\), a larger --workspace-size",
    ):
        machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    machine.executors[0].room = 10
    machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    machine.end()


def test_the_error_for_a_batch_that_is_too_large_states_the_size_needed(tmp_path: Path) -> None:
    machine = Machine(io=10 * 8192, max_batch=2)  # two rows are 6 KiB
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    check(loaded, 2)
    with pytest.raises(
        ServerError, match=r"inputs of the batch need 12.0 KiB; the limit is 8.0 KiB: use --io-size 120.0 KiB"
    ):
        loaded.assemble(*requests_of([images(4)]))
    loaded.close()
    del loaded
    machine.end()


def test_devices_are_independent(tmp_path: Path) -> None:
    machine = Machine(devices=2)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    first, second = host.load_weights(0), host.load_weights(1)
    first.close()
    check(second, 2)
    assert [executor.captures for executor in machine.executors] == [3, 3]
    assert machine.drivers[1].mapped
    second.close()
    del host, first, second
    machine.end()


def test_weights_may_be_in_memory_that_is_not_pinned(tmp_path: Path) -> None:
    machine = Machine(pinned=0)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    assert not host.pinned
    loaded = host.load_weights(0)
    check(loaded, 1)
    loaded.close()
    del host, loaded
    machine.end()


def test_wrong_shapes_are_an_invalid_request(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    with pytest.raises(InvalidRequestError):
        loaded.assemble(*requests_of([np.zeros((1, 3, 16), np.float32)]))
    loaded.close()
    del loaded
    machine.end()


def test_unreferenced_models_free_their_memory_at_the_next_load(tmp_path: Path) -> None:
    machine = Machine()
    machine.runtime.load_model(saved_conv(tmp_path / "0.pt2", 0))
    gc.collect()
    kept = machine.runtime.load_model(saved_conv(tmp_path / "1.pt2", 1))
    assert len(machine.drivers[0].memory) == 1
    assert len(machine.drivers[0].pinned) == 2, "weights, and memory for inputs and outputs"
    del kept
    machine.end()


def test_the_default_cache_is_a_share_of_the_free_memory() -> None:
    driver = FakeDriver(limit=100)
    driver.attach()
    runtime = CudaRuntime(
        1, PAGE, io_bytes=IO, make_driver=lambda index: driver, make_executor=lambda index, size: FakeExecutor(driver)
    )
    assert runtime.cache_bytes == 10 * PAGE  # 0.9 of 190 MiB
    assert runtime.device_kind == "cuda fake device"
    runtime.close()
    driver.check_nothing_is_left()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"cache_bytes": GIB},
            r"has 64 pages of 16.0 MiB; fake device has memory for 11: use a --cache-size below 176.0 MiB",
        ),
        ({"cache_bytes": MIB}, r"weights cache of 1.0 MiB is smaller than a page of 16.0 MiB"),
        ({"io_bytes": GIB}, r"need 1.0 GiB of fake device, which has 200.0 MiB free: use a smaller --io-size"),
        ({"io_bytes": 10}, r"10 bytes for inputs and outputs are too few"),
        ({"max_batch": 0}, r"a largest batch of 0 rows are not possible"),
    ],
)
def test_the_error_for_sizes_that_do_not_fit_states_the_limit(sizes: dict[str, int], message: str) -> None:
    driver = FakeDriver(limit=100)
    driver.attach()
    more: dict[str, Any] = {"io_bytes": IO, **sizes}
    with pytest.raises(InvalidRequestError, match=message):
        CudaRuntime(
            1, PAGE, **more, make_driver=lambda index: driver, make_executor=lambda index, size: FakeExecutor(driver)
        )


def test_devices_of_different_kinds_are_refused() -> None:
    drivers = [FakeDriver(), FakeDriver()]
    drivers[1].name = "another"
    with pytest.raises(InvalidRequestError, match="are of different kinds: another, fake device"):
        CudaRuntime(2, PAGE, PAGE, make_driver=drivers.__getitem__)


def test_a_moved_program_creates_its_tensors_on_the_device(tmp_path: Path) -> None:
    program = load(saved_conv(tmp_path / "m.pt2"))
    move(program, "meta")
    assert "device(type='meta')" in program.graph.code
    assert "device(type='cpu')" not in program.graph.code
    weights = program.layout.tensors(torch.empty(program.layout.nbytes, dtype=torch.uint8, device="meta"))
    arguments = program.arguments(weights)
    arguments[program.input_slots[0]] = torch.empty(2, 3, 16, 16, device="meta")
    assert [output.device.type for output in program.forward(*arguments)] == ["meta", "meta"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this is PyTorch's CUDA build")
def test_a_cpu_build_of_pytorch_is_refused() -> None:
    with pytest.raises(
        InvalidRequestError, match="was built without CUDA: install its CUDA build, or use --device cpu"
    ):
        TorchExecutor(0, GIB)


@pytest.mark.skipif(HAS_BINDINGS, reason="cuda-bindings are installed")
def test_the_error_for_missing_bindings_names_the_package() -> None:
    with pytest.raises(InvalidRequestError, match=r"pip install 'cuda-bindings>=13,<14'"):
        CudaDriver(0)
