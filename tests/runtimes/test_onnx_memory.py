"""Memory of sessions, packing of weights, the moment of closing, and the size of the cache on disk."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from clockwork import malloc
from clockwork.errors import ServerError
from clockwork.runtimes.onnx import OnnxRuntime, cache, packing
from clockwork.runtimes.onnx.closing import CloseTiming
from clockwork.runtimes.onnx.packing import MAX_ROUNDS, MIN_PACKED_BYTES, worth_packing
from clockwork.units import MIB
from onnx_graphs import FLOAT, dense, model, node, saved, value

FEEDS = [{"x": np.zeros((1, 4), np.float32)}]


def convolution() -> Any:
    """Return a network with 9 MiB of weights that are not packed, and a small product whose weights are packed."""
    rng = np.random.default_rng(0)
    return model(
        [
            node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", "c", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f m", "y"),
        ],
        [value("x", ["N", 512, 28, 28], FLOAT)],
        [value("y", ["N", 1024])],
        w=rng.standard_normal((512, 512, 3, 3), dtype=np.float32),
        m=rng.standard_normal((512, 1024), dtype=np.float32),
    )


# --------------------------------------------------------------------------------------------------------- packing


def timed_runs(times: Mapping[str, list[int]]) -> Any:
    """Return a fake clock and two runs that advance it by the given times."""

    class FakeClock:
        def __init__(self) -> None:
            self.at = 0

        def now(self) -> int:
            return self.at

    clock = FakeClock()

    def run(name: str) -> Any:
        def go(_: Any) -> None:
            durations = times[name]
            clock.at += durations.pop(0) if len(durations) > 1 else durations[0]

        return go

    return clock, run("packed"), run("unpacked")


@pytest.mark.parametrize(
    ("packed", "unpacked", "worth"),
    [
        ([100], [119], False),
        ([100], [121], True),
        ([100], [90], False),
        ([500, 100, 900, 100], [700, 800, 110], False),  # the shortest times are compared
    ],
)
def test_weights_are_packed_if_that_saves_enough_time(
    packed: list[int], unpacked: list[int], worth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, run_packed, run_unpacked = timed_runs({"packed": packed, "unpacked": unpacked})
    monkeypatch.setattr("clockwork.runtimes.onnx.packing._clock", clock)
    assert len(packed) <= MAX_ROUNDS
    assert worth_packing(run_packed, run_unpacked, FEEDS, MIN_PACKED_BYTES) is worth


def test_weights_are_packed_if_packing_takes_little_or_cannot_be_tried() -> None:
    def fails(_: Any) -> None:
        raise ServerError("no")

    assert worth_packing(fails, fails, FEEDS, MIN_PACKED_BYTES - 1)
    assert worth_packing(fails, fails, FEEDS, MIN_PACKED_BYTES)
    assert worth_packing(fails, fails, [], MIN_PACKED_BYTES)


def test_a_network_of_matrix_products_is_packed_and_a_convolutional_network_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MIN_ROUNDS", 50)  # so that the shortest time is undisturbed on a busy host
    runtime = OnnxRuntime()
    products = runtime.load_model(saved(dense(width=1024, classes=1024), tmp_path / "products.onnx"))
    assert products.packed
    assert products.in_place
    network = runtime.load_model(saved(convolution(), tmp_path / "network.onnx"))
    assert not network.packed
    assert network.in_place


# ------------------------------------------------------------------------------------------------------------ heap


@pytest.mark.skipif(not malloc.used_bytes(), reason="only glibc reports it")
def test_the_heap_of_a_session_is_measured_and_cached(tmp_path: Path) -> None:
    file = saved(dense(width=1024, classes=1024), tmp_path / "a.onnx")
    first = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    session_bytes = first.info.weights_bytes - first._prepared.nbytes
    assert 8 * MIB <= session_bytes < 10 * MIB  # two matrices of 4 MiB, packed
    again = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    assert again.info == first.info
    assert again.packed == first.packed


def test_one_disturbed_measurement_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter([0, 100, 100, 5 * MIB, 5 * MIB, 5 * MIB + 100])
    monkeypatch.setattr("clockwork.malloc.used_bytes", lambda: next(levels))
    assert malloc.measure_allocation(lambda: "made") == ("made", malloc.GRANULE)


def test_memory_that_cannot_be_measured_counts_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.malloc._mallinfo2", None)
    assert malloc.measure_allocation(lambda: bytes(MIB))[1] == 0


# --------------------------------------------------------------------------------------------------- close timing


def test_closing_does_not_wait_for_long_if_no_inference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.runtimes.onnx.closing.MAX_WAIT", 100)
    timing = CloseTiming()
    timing.wait()
    timing.inference_begins()
    timing.inference_ends()
    timing.wait()


def test_a_session_is_closed_when_the_next_inference_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.runtimes.onnx.closing.MAX_WAIT", 100)
    timing = CloseTiming()
    timing.inference_begins()
    waits, over = Event(), Event()

    def close() -> None:
        waits.set()
        timing.wait()
        over.set()

    thread = Thread(target=close)
    thread.start()
    assert waits.wait(60)
    timing.inference_ends()
    while not over.is_set():  # the thread may not have seen the first inference
        timing.inference_begins()
        over.wait(0.001)
        timing.inference_ends()
    thread.join()


def test_a_long_inference_does_not_delay_closing_a_session_forever() -> None:
    timing = CloseTiming()
    timing.inference_begins()
    timing.wait()


# ----------------------------------------------------------------------------------------------------------- cache


def test_a_full_cache_removes_the_least_recently_used_entries(tmp_path: Path) -> None:
    files = [saved(dense(seed), tmp_path / f"{seed}.onnx") for seed in range(4)]
    directory = tmp_path / "cache"
    OnnxRuntime(cache_dir=directory).load_model(files[0])
    (entry,) = directory.iterdir()
    limit = entry.stat().st_size * 5 // 2  # for two entries
    names = {0: entry.name}
    for age, seed in enumerate((1, 0, 2, 0, 3)):
        OnnxRuntime(cache_dir=directory, cache_bytes=limit).load_model(files[seed])
        (newest,) = {file.name for file in directory.iterdir()} - set(names.values()) or {names[seed]}
        names[seed] = newest
        os.utime(directory / newest, ns=(age, age))
    assert {file.name for file in directory.iterdir()} == {names[0], names[3]}


def test_tidying_keeps_the_new_entry_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    entry = cache.entry(tmp_path, "a" * 64)
    entry.write_bytes(bytes(100))
    cache.tidy(tmp_path, 10, entry)
    assert {file.name for file in tmp_path.iterdir()} == {"notes", entry.name}


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".killed.tmp").write_bytes(b"w")
    with (tmp_path / ".live.tmp").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a process that writes an entry
        OnnxRuntime(cache_dir=tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".live.tmp"]


def test_a_cache_is_tidied_when_the_runtime_starts(tmp_path: Path) -> None:
    OnnxRuntime(cache_dir=tmp_path).load_model(saved(dense(), tmp_path / "a.onnx"))
    assert list(tmp_path.glob("*.onnx-prepared"))
    OnnxRuntime(cache_dir=tmp_path, cache_bytes=1)
    assert not list(tmp_path.glob("*.onnx-prepared"))
