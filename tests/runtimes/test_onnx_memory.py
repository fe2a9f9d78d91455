"""What sessions take, whether they pack weights, when they are destroyed, and how much of the disk is theirs."""

import os
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from clockwork import heap
from clockwork.errors import ServerError
from clockwork.runtimes.onnx import OnnxRuntime, cache
from clockwork.runtimes.onnx.closing import CloseTiming
from clockwork.runtimes.onnx.packing import MAX_ROUNDS, MIN_PACKED_BYTES, worth_packing
from clockwork.units import MIB
from onnx_graphs import FLOAT, dense, model, node, saved, value

FEEDS = [{"x": np.zeros((1, 4), np.float32)}]


def convolution() -> Any:
    """9 MiB of weights, none of which is packed, and a product whose packed weights do not matter beside it."""
    chance = np.random.default_rng(0)
    return model(
        [
            node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", "c", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f m", "y"),
        ],
        [value("x", ["N", 512, 28, 28], FLOAT)],
        [value("y", ["N", 1024])],
        w=chance.standard_normal((512, 512, 3, 3), dtype=np.float32),
        m=chance.standard_normal((512, 1024), dtype=np.float32),
    )


# --------------------------------------------------------------------------------------------------------- packing


def took(times: Mapping[str, list[int]]) -> Any:
    """A clock that says what each run took, in turns."""

    class Told:
        def __init__(self) -> None:
            self.at = 0

        def now(self) -> int:
            return self.at

    clock = Told()

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
        ([500, 100, 900, 100], [700, 800, 110], False),  # the shortest of each counts
    ],
)
def test_packing_stays_where_it_saves_enough_time(
    packed: list[int], unpacked: list[int], worth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, run_packed, run_unpacked = took({"packed": packed, "unpacked": unpacked})
    monkeypatch.setattr("clockwork.runtimes.onnx.packing._clock", clock)
    assert len(packed) <= MAX_ROUNDS
    assert worth_packing(run_packed, run_unpacked, FEEDS, MIN_PACKED_BYTES) is worth


def test_packing_stays_where_it_takes_little_or_nothing_can_be_tried() -> None:
    def fails(_: Any) -> None:
        raise ServerError("no")

    assert worth_packing(fails, fails, FEEDS, MIN_PACKED_BYTES - 1)
    assert worth_packing(fails, fails, FEEDS, MIN_PACKED_BYTES)
    assert worth_packing(fails, fails, [], MIN_PACKED_BYTES)


def test_products_of_few_rows_are_packed_and_those_behind_convolutions_are_not(tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    products = runtime.load_model(saved(dense(width=1024, classes=1024), tmp_path / "products.onnx"))
    assert products.packed
    assert products.in_place
    network = runtime.load_model(saved(convolution(), tmp_path / "network.onnx"))
    assert not network.packed
    assert network.in_place


# ------------------------------------------------------------------------------------------------------------ heap


@pytest.mark.skipif(not heap.in_use(), reason="only glibc can tell")
def test_what_a_session_takes_is_counted_and_kept_with_the_prepared_model(tmp_path: Path) -> None:
    file = saved(dense(width=1024, classes=1024), tmp_path / "a.onnx")
    first = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    session_bytes = first.info.weights_bytes - first._prepared.nbytes
    assert 8 * MIB <= session_bytes < 10 * MIB  # two matrices of 4 MiB, packed
    again = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    assert again.info == first.info
    assert again.packed == first.packed


def test_one_disturbed_measurement_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter([0, 100, 100, 5 * MIB, 5 * MIB, 5 * MIB + 100])
    monkeypatch.setattr("clockwork.heap.in_use", lambda: next(levels))
    assert heap.measured(lambda: "made") == ("made", heap.GRANULE)


def test_memory_that_cannot_be_measured_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.heap._mallinfo2", None)
    assert heap.measured(lambda: bytes(MIB))[1] == 0


# ------------------------------------------------------------------------------------------------------------ calm


def test_nobody_waits_for_long_where_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.runtimes.onnx.closing.MAX_WAIT", 100)
    calm = CloseTiming()
    calm.wait()
    calm.inference_begins()
    calm.inference_ends()
    calm.wait()


def test_a_session_is_destroyed_when_the_next_inference_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockwork.runtimes.onnx.closing.MAX_WAIT", 100)
    calm = CloseTiming()
    calm.inference_begins()
    waits, over = Event(), Event()

    def close() -> None:
        waits.set()
        calm.wait()
        over.set()

    thread = Thread(target=close)
    thread.start()
    assert waits.wait(60)
    calm.inference_ends()
    while not over.is_set():  # the thread may not have seen the first yet
        calm.inference_begins()
        over.wait(0.001)
        calm.inference_ends()
    thread.join()


def test_a_long_inference_does_not_keep_a_session_alive() -> None:
    calm = CloseTiming()
    calm.inference_begins()
    calm.wait()


# ----------------------------------------------------------------------------------------------------------- cache


def test_the_least_recently_used_leave_a_cache_that_is_full(tmp_path: Path) -> None:
    files = [saved(dense(seed), tmp_path / f"{seed}.onnx") for seed in range(4)]
    directory = tmp_path / "cache"
    OnnxRuntime(cache_dir=directory).load_model(files[0])
    (entry,) = directory.iterdir()
    room = entry.stat().st_size * 5 // 2  # for two
    names = {0: entry.name}
    for age, seed in enumerate((1, 0, 2, 0, 3)):
        OnnxRuntime(cache_dir=directory, cache_bytes=room).load_model(files[seed])
        (newest,) = {it.name for it in directory.iterdir()} - set(names.values()) or {names[seed]}
        names[seed] = newest
        os.utime(directory / newest, ns=(age, age))
    assert {it.name for it in directory.iterdir()} == {names[0], names[3]}


def test_the_entry_just_written_stays_and_other_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    entry = cache.entry(tmp_path, "a" * 64)
    entry.write_bytes(bytes(100))
    cache.tidy(tmp_path, 10, entry)
    assert {it.name for it in tmp_path.iterdir()} == {"notes", entry.name}


def test_what_a_killed_process_has_left_is_swept_away_when_it_is_old(tmp_path: Path) -> None:
    for age, name in ((7200, "old"), (0, "new")):
        left = tmp_path / f"clockwork-{name}"
        left.mkdir()
        (left / "weights").write_bytes(b"w")
        file = tmp_path / f".{name}.tmp"
        file.write_bytes(b"w")
        for path in (left, file):
            moment = path.stat().st_mtime - age
            os.utime(path, (moment, moment))
    OnnxRuntime(cache_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.tmp", "clockwork-new"]


def test_a_cache_is_tidied_at_the_start(tmp_path: Path) -> None:
    OnnxRuntime(cache_dir=tmp_path).load_model(saved(dense(), tmp_path / "a.onnx"))
    assert list(tmp_path.glob("*.onnx-prepared"))
    OnnxRuntime(cache_dir=tmp_path, cache_bytes=1)
    assert not list(tmp_path.glob("*.onnx-prepared"))
