"""Programs on CUDA devices, with host memory for the devices: everything but CUDA itself."""

import gc
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.torch.programs import Conv, Of, Wide, saved, saved_conv

import torch  # isort: skip - `programs` skips these tests where there is none
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
IO = 10 * MIB  # a MiB for each batch
HAS_BINDINGS = find_spec("cuda") is not None and find_spec("cuda.bindings") is not None


class Machine:
    """A runtime, and the fakes below it."""

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


def asked(arrays: Sequence[Any], name: str = "image") -> tuple[list[InferInput], list[bytes]]:
    inputs = [InferInput(i, len(it), (spec(name, "FP32", it.shape),)) for i, it in enumerate(arrays)]
    return inputs, [it.tobytes() for it in arrays]


def answers(loaded: Any, arrays: Sequence[Any], name: str = "image") -> list[Any]:
    """The first output of each request."""
    inputs, payloads = asked(arrays, name)
    found = loaded.split(inputs, loaded.execute(loaded.assemble(inputs, payloads)))
    return [np.frombuffer(buffers[0], np.float32).reshape(specs[0].shape) for specs, buffers in found]


def check(loaded: Any, *rows: int, seed: int = 0) -> None:
    """Requests of so many rows each, in one batch."""
    arrays = [images(count, i) for i, count in enumerate(rows)]
    for array, found in zip(arrays, answers(loaded, arrays), strict=True):
        np.testing.assert_allclose(found, eager(array, seed), rtol=1e-5, atol=1e-6)


def test_code_compiled_for_cpus_is_refused(compiled_conv: Path) -> None:
    machine = Machine(max_batch=2)
    with pytest.raises(InvalidModelError, match=r"'m.pt2' has code .* for CPUs; on GPUs programs are captured"):
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
def test_a_batch_between_two_sizes_is_filled_up(rows: tuple[int, ...], tmp_path: Path) -> None:
    machine = Machine(max_batch=8)
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    eagers = machine.executors[0].eagers
    check(loaded, *rows)
    assert machine.executors[0].eagers == eagers
    loaded.close()
    del loaded
    machine.end()


def test_rows_that_fill_up_are_valid_ones(tmp_path: Path) -> None:
    """Garbage would be no index of the table."""
    machine = Machine(max_batch=4)
    table = Of(lambda self, x: self.table[x.long()], table=torch.arange(6.0).reshape(3, 2))
    loaded = machine.runtime.load_model(saved(table, tmp_path / "m.pt2", (1, 2))).load_weights(0)
    machine.runtime.devices[0].staging._host.fill_(0x4B)  # as floats: some millions
    x = np.array([[2, 1], [0, 2], [1, 1]], np.float32)
    (found,) = answers(loaded, [x], "x")
    np.testing.assert_array_equal(found, np.arange(6.0).reshape(3, 2)[x.astype(int)])
    loaded.close()
    del loaded
    machine.end()


def test_more_rows_than_were_foreseen_are_executed_without_a_graph(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(max_batch=2)
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    check(loaded, 3)
    check(loaded, 4)
    assert machine.captures == 2
    said = [it.getMessage() for it in caplog.records if "of which there is no graph" in it.getMessage()]
    assert said == [
        "m.pt2 is executed operator by operator for inputs of shapes [(3, 3, 16, 16)], of which there is no graph"
    ]
    loaded.close()
    del loaded
    machine.end()


def test_the_next_batch_may_be_assembled_before_the_last_is_executed_and_outputs_be_split_late(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    arrays = [images(rows) for rows in (1, 2, 4)]
    batches = [loaded.assemble(*asked([it])) for it in arrays]
    outputs = [loaded.execute(it) for it in batches]
    for array, its in reversed(list(zip(arrays, outputs, strict=True))):
        (((_, buffers),)) = loaded.split(asked([array])[0], its)
        found = np.frombuffer(buffers[0], np.float32).reshape(-1, 5)
        np.testing.assert_allclose(found, eager(array), rtol=1e-5, atol=1e-6)
    loaded.close()
    del loaded, batches, outputs, its
    machine.end()


def test_a_batch_may_be_executed_twice_and_be_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "TAKE_MAX", 0.01)
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    for _ in range(3 * staging.SLOTS):
        loaded.assemble(*asked([images(2)]))
        batch = loaded.assemble(*asked([images(1)]))
        loaded.execute(batch)
        loaded.execute(batch)
    check(loaded, 2)
    held = [loaded.assemble(*asked([images(1)])) for _ in range(staging.SLOTS - 1)] + [batch]
    with pytest.raises(ServerError, match=r"all memory for inputs has been in use for 0.01 s"):
        loaded.assemble(*asked([images(1)]))
    held.clear()
    del batch
    check(loaded, 1)
    loaded.close()
    del loaded
    machine.end()


def test_when_an_inference_is_over_the_device_has_nothing_left_to_compute(tmp_path: Path) -> None:
    """So the lane's time is the inference's, and weights may be evicted then."""
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    inputs, payloads = asked([images(2)])
    batch = loaded.assemble(inputs, payloads)
    outputs = loaded.execute(batch)
    assert not machine.drivers[0].streams[machine.executors[0].stream]
    loaded.close()
    ((_, (buffer, *_)),) = loaded.split(inputs, outputs)
    np.testing.assert_allclose(np.frombuffer(buffer, np.float32).reshape(2, 5), eager(images(2)), rtol=1e-5, atol=1e-6)
    del loaded, batch, outputs
    machine.end()


@pytest.mark.parametrize("hasty", [(0,), (1,), (2,), (0, 1, 2)])
def test_the_order_of_streams_is_by_events_alone(hasty: tuple[int, ...], tmp_path: Path) -> None:
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


def test_answers_stay_as_they_are_while_others_come(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    found = [answers(loaded, [images(1, seed)])[0] for seed in range(2 * staging.SLOTS)]
    for seed, its in enumerate(found):
        np.testing.assert_allclose(its, eager(images(1, seed)), rtol=1e-5, atol=1e-6)
    loaded.close()
    del loaded
    machine.end()


def test_what_the_device_took_is_told_with_its_clock(tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    assert loaded.uploads
    inputs, payloads = asked([images(2)])
    outputs = loaded.execute(loaded.assemble(inputs, payloads))
    loaded.split(inputs, outputs)
    time = loaded.device_time(outputs)
    assert time.duration > 0
    assert time.clock_mhz == 1980
    loaded.close()
    del loaded, outputs
    machine.end()


def test_weights_that_come_back_lie_where_they_lay_and_graphs_stay(tmp_path: Path) -> None:
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


def test_a_model_that_has_no_room_when_it_is_read_is_captured_by_its_first_load(tmp_path: Path) -> None:
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


def test_copies_have_pages_and_copies_of_their_own_and_graphs_in_common(tmp_path: Path) -> None:
    machine = Machine()
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    copies = [host.load_weights(0) for _ in range(3)]
    assert len(machine.drivers[0].mapped) == 3
    assert machine.runtime.devices[0].cache.free == 5
    for at in (0, 1, 2):  # the first to come is the first to go
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


def test_evicted_weights_are_gone(tmp_path: Path) -> None:
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


def test_a_full_cache_refuses_and_nothing_is_lost(tmp_path: Path) -> None:
    machine = Machine(pages=5)
    host = machine.runtime.load_model(saved(Wide(), tmp_path / "m.pt2", (1, 2048)))  # 64 MiB and a little
    loaded = host.load_weights(0)
    with pytest.raises(
        ServerError, match=r"could not load .* of weights on device 0: 5 pages are needed on fake device; 0 are f"
    ):
        host.load_weights(0)
    loaded.close()
    host.load_weights(0).close()
    del host, loaded
    machine.end()


@pytest.mark.parametrize("failing", ["map", "allow", "record", "copy_to_device", "wait", "elapsed"])
def test_a_load_that_fails_leaves_everything_as_it_was(failing: str, tmp_path: Path) -> None:
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
def test_an_inference_that_fails_is_told_and_the_next_is_not_harmed(failing: str, tmp_path: Path) -> None:
    machine = Machine()
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    for _ in range(2 * staging.SLOTS):
        batch = loaded.assemble(*asked([images(1)]))
        machine.drivers[0].failing = failing
        with pytest.raises(ServerError, match=f"the inference failed: {failing} failed with CUDA_ERROR_UNKNOWN"):
            loaded.execute(batch)
    check(loaded, 2)
    loaded.close()
    del loaded, batch
    machine.end()


@pytest.mark.parametrize("step", ["load_model", "load_weights", "assemble", "execute", "split", "close"])
def test_a_lost_device_is_told_at_whatever_step(step: str, tmp_path: Path) -> None:
    machine = Machine()
    driver = machine.drivers[0]
    path = saved_conv(tmp_path / "m.pt2")
    another = saved_conv(tmp_path / "n.pt2", 1)
    host = machine.runtime.load_model(path)
    loaded = host.load_weights(0)
    inputs, payloads = asked([images(1)])
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


def test_an_error_of_pytorch_after_which_the_device_is_lost_is_told_as_that(tmp_path: Path) -> None:
    machine = Machine(max_batch=1)
    table = Of(lambda self, x: self.table[x.long()], table=torch.arange(3.0))
    loaded = machine.runtime.load_model(saved(table, tmp_path / "m.pt2", (1, 2))).load_weights(0)
    batch = loaded.assemble(*asked([np.array([[9, 9]], np.float32)], "x"))
    with pytest.raises(InvalidRequestError, match="index 9 is out of bounds"):
        loaded.execute(batch)  # as on a CPU
    judged = []
    machine.drivers[0].check = lambda: judged.append(True)  # type: ignore[method-assign]
    with pytest.raises(InvalidRequestError):
        loaded.execute(batch)
    assert judged == [True]


def test_what_cannot_be_captured_is_executed_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(capturable=False)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    loaded = host.load_weights(0)
    for rows in (1, 2, 3, 1):
        check(loaded, rows)
    assert "not permitted when stream is capturing" in loaded.fallback
    assert host.info.note == "no CUDA graph: operation not permitted when stream is capturing"
    assert len([it for it in caplog.records if "no graph of it can be captured" in it.getMessage()]) == 1
    loaded.close()
    del host, loaded
    machine.end()


def test_a_graph_that_computes_something_else_is_not_used(tmp_path: Path) -> None:
    machine = Machine(wrong=1000)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    assert host.info.note == "no CUDA graph: a graph computes something else"
    loaded = host.load_weights(0)
    check(loaded, 2)
    loaded.close()
    del host, loaded
    machine.end()


def test_without_memory_for_graphs_it_is_said_what_to_change(tmp_path: Path) -> None:
    machine = Machine(room=1)
    with pytest.raises(
        ServerError,
        match=r"capturing a graph of m\.pt2 for 2 rows needs more memory than device 0 \(fake device\) has left: .* "
        r"are free .* less as --cache-size \(128.0 MiB now\), more as --workspace-size",
    ):
        machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    machine.executors[0].room = 10
    machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    machine.end()


def test_a_batch_that_does_not_fit_says_what_would(tmp_path: Path) -> None:
    machine = Machine(io=10 * 8192, max_batch=2)  # two rows are 6 KiB
    loaded = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2")).load_weights(0)
    check(loaded, 2)
    with pytest.raises(
        ServerError, match=r"the inputs of the batch take 12.0 KiB; .* a batch has 8.0 KiB: give --io-size 120.0 KiB"
    ):
        loaded.assemble(*asked([images(4)]))
    loaded.close()
    del loaded
    machine.end()


def test_devices_are_independent(tmp_path: Path) -> None:
    machine = Machine(devices=2)
    host = machine.runtime.load_model(saved_conv(tmp_path / "m.pt2"))
    first, second = host.load_weights(0), host.load_weights(1)
    first.close()
    check(second, 2)
    assert [it.captures for it in machine.executors] == [3, 3]
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
        loaded.assemble(*asked([np.zeros((1, 3, 16), np.float32)]))
    loaded.close()
    del loaded
    machine.end()


def test_models_that_nobody_refers_to_give_everything_back_at_the_next_load(tmp_path: Path) -> None:
    machine = Machine()
    machine.runtime.load_model(saved_conv(tmp_path / "0.pt2", 0))
    gc.collect()
    kept = machine.runtime.load_model(saved_conv(tmp_path / "1.pt2", 1))
    assert len(machine.drivers[0].memory) == 1
    assert len(machine.drivers[0].pinned) == 2, "weights, and memory for inputs and outputs"
    del kept
    machine.end()


def test_the_cache_is_a_part_of_what_is_free_if_nothing_is_said() -> None:
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
        ({"cache_bytes": GIB}, r"has room for 11 pages of 16.0 MiB; 64 were asked for: give less than 176.0 MiB"),
        ({"cache_bytes": MIB}, r"a weights cache of 1.0 MiB has no room for a page of 16.0 MiB"),
        ({"io_bytes": GIB}, r"no 1.0 GiB for inputs and outputs \(200.0 MiB are free\): give less as --io-size"),
        ({"io_bytes": 10}, r"10 bytes for inputs and outputs are too few"),
        ({"max_batch": 0}, r"batches of 0 rows make no sense"),
    ],
)
def test_sizes_that_do_not_fit_say_what_would(sizes: dict[str, int], message: str) -> None:
    driver = FakeDriver(limit=100)
    driver.attach()
    more: dict[str, Any] = {"io_bytes": IO, **sizes}
    with pytest.raises(InvalidRequestError, match=message):
        CudaRuntime(
            1, PAGE, **more, make_driver=lambda index: driver, make_executor=lambda index, size: FakeExecutor(driver)
        )


def test_devices_of_one_worker_are_of_one_kind() -> None:
    drivers = [FakeDriver(), FakeDriver()]
    drivers[1].name = "another"
    with pytest.raises(InvalidRequestError, match="are of one kind; found another, fake device"):
        CudaRuntime(2, PAGE, PAGE, make_driver=drivers.__getitem__)


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
        TorchExecutor(0, GIB)


@pytest.mark.skipif(HAS_BINDINGS, reason="cuda-bindings are installed")
def test_without_bindings_it_is_said_how_to_get_them() -> None:
    with pytest.raises(InvalidRequestError, match=r"pip install 'clockwork-serve\[cuda\]'"):
        CudaDriver(0)
