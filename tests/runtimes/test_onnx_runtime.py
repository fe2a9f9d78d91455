"""Preparing models: optimising, comparing with the original, deciding on batching, and caching."""

from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from clockwork.errors import ServerError
from clockwork.runtimes.base import Runtime
from clockwork.runtimes.hardware import cpu_name, device_kind, instruction_set, read_cpuinfo
from clockwork.runtimes.onnx import OnnxRuntime, cache
from clockwork.runtimes.onnx.sessions import describe
from clockwork.zoo import build
from onnx_graphs import FLOAT, dense, echo, model, node, saved, value
from responses import response

# ------------------------------------------------------------------------------------------------------- batchable


def looks_free(*nodes: Any, shape: tuple[Any, ...] = ("N", 4), **weights: Any) -> Any:
    """Return a model from ``x`` to ``y`` that declares free first dimensions."""
    return model(nodes, [value("x", shape)], [value("y", shape)], **weights)


@pytest.mark.parametrize(
    ("proto", "batchable"),
    [
        (dense(), True),
        (dense(batch=1), False),
        (dense(batch=2), False),
        (echo(FLOAT, ["N", "L"]), True),
        (echo(FLOAT, [None, 3]), True),
        (echo(FLOAT, ["N"]), True),
        (echo(FLOAT, ["N", "N"]), False),
        (echo(FLOAT, []), False),
        (echo(TensorProto.STRING, ["N"]), True),
        (looks_free(node("Reshape", "x s", "y"), s=np.array([1, 4])), False),
        (looks_free(node("Reshape", "x s", "y"), s=np.array([-1, 4])), True),
        (looks_free(node("Softmax", "x", "y", axis=1)), True),
        (looks_free(node("Softmax", "x", "y", axis=0)), False),
        (looks_free(node("ReduceMean", "x", "y", axes=[0])), False),
        (looks_free(node("Transpose", "x", "y", perm=[1, 0])), False),
        (looks_free(node("Add", "x w", "y"), w=np.ones((2, 4), "f4")), False),
        (looks_free(node("NonZero", "x", "i"), node("Cast", "i", "y", to=FLOAT)), False),
        (model([node("Shape", "x", "y")], [value("x", ["N", 4])], [value("y", ["N"], TensorProto.INT64)]), False),
    ],
)
def test_a_model_is_batchable_if_it_declares_free_rows_and_keeps_them_apart(
    proto: Any, batchable: bool, tmp_path: Path
) -> None:
    assert OnnxRuntime().load_model(saved(proto, tmp_path / "a.onnx")).info.batchable is batchable


@pytest.mark.parametrize(("second", "batchable"), [("N", True), (None, True), ("M", False), (4, False)])
def test_inputs_with_different_first_dimensions_are_not_batched(second: Any, batchable: bool, tmp_path: Path) -> None:
    proto = model(
        [node("Identity", "a", "c"), node("Identity", "b", "d")],
        [value("a", ["N", 2]), value("b", [second, 2])],
        [value("c", ["N", 2]), value("d", ["K", 2])],
    )
    assert OnnxRuntime().load_model(saved(proto, tmp_path / "a.onnx")).info.batchable is batchable


def test_a_model_that_rejects_small_inputs_is_tried_with_larger_ones(tmp_path: Path) -> None:
    proto = model(
        [node("AveragePool", "x", "y", kernel_shape=[40, 40])],
        [value("x", ["N", 3, "H", "W"])],
        [value("y", ["N", 3, "h", "w"])],
    )
    host = OnnxRuntime().load_model(saved(proto, tmp_path / "a.onnx"))
    assert host.info.batchable
    assert host.in_place


def test_a_model_that_rejects_all_random_inputs_is_not_batched_and_its_weights_are_copied(tmp_path: Path) -> None:
    table = np.arange(16 * 282, dtype=np.float32).reshape(16, 282)
    proto = model(
        [node("Concat", "x x", "z", axis=1), node("Add", "z w", "y")],
        [value("x", ["N", "L"])],
        [value("y", ["N", "M"])],
        w=table[0],
    )  # it accepts only 141 columns
    host = OnnxRuntime().load_model(saved(proto, tmp_path / "a.onnx"))
    assert host.info.unbatched == "it accepts none of the random inputs made to try it"
    assert not host.info.batchable
    assert not host.in_place
    assert response(host, np.zeros((1, 141), "f4")).tolist() == list(range(282))


def test_inputs_that_would_be_too_large_are_not_tried(tmp_path: Path) -> None:
    host = OnnxRuntime().load_model(saved(echo(FLOAT, ["N", *"ABCDEFGH"]), tmp_path / "a.onnx"))
    assert host.info.example is not None
    assert host.info.example.shapes == ((1, *[8] * 8),)


# -------------------------------------------------------------------------------------------------------- prepared


def test_all_sessions_share_one_copy_of_the_weights(tmp_path: Path) -> None:
    host = OnnxRuntime().load_model(build("squeezenet", tmp_path))
    assert host.in_place
    image = np.ones((1, 3, 224, 224), np.float32)
    sessions = [host.load_weights(device) for device in range(2)]
    before = [session.execute({"data": image})[0].copy() for session in sessions]
    host._prepared.weights.view(np.float32)[:] *= 0.5
    after = [session.execute({"data": image})[0] for session in sessions]
    assert before[0].tobytes() == before[1].tobytes()
    assert after[0].tobytes() == after[1].tobytes()
    assert not np.array_equal(before[0], after[0])


def test_models_with_the_same_content_are_shared(tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    first = runtime.load_model(saved(dense(), tmp_path / "a.onnx"))
    assert runtime.load_model(saved(dense(), tmp_path / "b" / "1" / "model.onnx")) is first
    other = runtime.load_model(saved(dense(seed=1), tmp_path / "c.onnx"))
    assert other is not first
    assert other.info.digest != first.info.digest


def test_weights_in_subgraphs_stay_in_the_graph(tmp_path: Path) -> None:
    def branch(name: str, factor: float) -> Any:
        weights = onnx.numpy_helper.from_array(np.full((1, 1024), factor, "f4"), f"w_{name}")
        return onnx.helper.make_graph(
            [node("Mul", f"x w_{name}", f"y_{name}")], name, [], [value(f"y_{name}", ["N", 1024])], [weights]
        )

    proto = model(
        [
            node("ReduceSum", "x", "s", keepdims=0),
            node("Greater", "s zero", "c"),
            node("If", "c", "y", then_branch=branch("a", 2.0), else_branch=branch("b", 3.0)),
        ],
        [value("x", ["N", 1024])],
        [value("y", ["N", 1024])],
        zero=np.float32(0),
    )
    host = OnnxRuntime().load_model(saved(proto, tmp_path / "a.onnx"))
    assert set(response(host, np.full((1, 1024), 1, "f4"))) == {2.0}
    assert set(response(host, np.full((1, 1024), -1, "f4"))) == {-3.0}


def test_threads_of_several_devices_load_and_infer_at_once(tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    files = [saved(dense(seed=seed), tmp_path / f"{seed}.onnx") for seed in range(4)]
    x = np.random.default_rng(0).standard_normal((3, 32), dtype=np.float32)
    expected = [response(OnnxRuntime().load_model(file), x) for file in files]
    found: dict[int, list[Any]] = {}

    def work(device: int) -> None:
        found[device] = [response(runtime.load_model(file), x) for file in files]

    threads = [Thread(target=work, args=(device,)) for device in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2]
    for responses in found.values():
        np.testing.assert_array_equal(responses, expected)


def test_a_device_may_have_several_threads(tmp_path: Path) -> None:
    runtime = OnnxRuntime(threads_per_device=2)
    host = runtime.load_model(saved(dense(), tmp_path / "a.onnx"))
    x = np.ones((2, 32), np.float32)
    expected = response(OnnxRuntime().load_model(tmp_path / "a.onnx"), x)
    np.testing.assert_allclose(response(host, x), expected, rtol=1e-5)
    assert runtime.device_kind.endswith(" x2")
    with pytest.raises(ValueError, match="at least one thread"):
        OnnxRuntime(threads_per_device=0)


def test_a_removed_placeholder_is_made_again(tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    host = runtime.load_model(saved(dense(), tmp_path / "a.onnx"))
    x = np.ones((1, 32), np.float32)
    expected = response(host, x)
    placeholder = runtime._placeholder
    directory = placeholder._path.parent
    (directory / "weights").unlink()
    np.testing.assert_array_equal(response(host, x), expected)
    (directory / "weights").unlink()
    directory.rmdir()
    np.testing.assert_array_equal(response(host, x), expected)
    assert placeholder._path.stat().st_blocks == 0


def test_the_placeholder_is_removed_with_the_runtime() -> None:
    runtime = OnnxRuntime()
    directory = runtime._placeholder._path.parent
    assert directory.is_dir()
    del runtime
    assert not directory.exists()


def test_truncated_optimised_weights_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = onnx.load_model

    def cut_off(path: Path, **options: Any) -> Any:
        with (path.parent / "weights").open("r+b") as file:
            file.truncate(100)
        return load(path, **options)

    monkeypatch.setattr(onnx, "load_model", cut_off)
    with pytest.raises(ServerError, match="weights end after 100 of 4096 bytes"):
        OnnxRuntime().load_model(saved(dense(), tmp_path / "a.onnx"))


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    host = OnnxRuntime().load_model(saved(dense(), tmp_path / "a.onnx"))
    with pytest.raises(Exception, match="rejects"):
        host.load_weights(0).execute({"x": np.zeros((1, 31), "f4")})
    assert capfd.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------------------- cache


def test_a_read_only_cache_does_not_prevent_loading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    read_only = Path("/proc/self")  # even root cannot write there
    found = response(OnnxRuntime(cache_dir=read_only).load_model(file), np.ones((1, 32), "f4"))
    assert "/proc/self is not writable" in caplog.text
    assert np.array_equal(found, response(OnnxRuntime().load_model(file), np.ones((1, 32), "f4")))


def test_a_cached_model_is_not_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    x = np.ones((1, 32), np.float32)
    first = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    monkeypatch.delattr("clockwork.runtimes.onnx.runtime.prepare")
    second = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file)
    assert second.info == first.info
    assert second.in_place == first.in_place
    assert second._prepared.weights.ctypes.data % 64 == 0
    np.testing.assert_array_equal(response(first, x), response(second, x))


@pytest.mark.parametrize("damage", ["empty", "short", "changed", "other format", "long header", "bad header"])
def test_a_damaged_entry_is_prepared_again(damage: str, tmp_path: Path) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    directory = tmp_path / "cache"
    expected = response(OnnxRuntime(cache_dir=directory).load_model(file), np.ones((1, 32), "f4"))
    (entry,) = directory.iterdir()
    content = entry.read_bytes()
    start = len(cache.MAGIC)
    entry.write_bytes(
        {
            "empty": b"",
            "short": content[:-1],
            "changed": content[:-9] + b"?" + content[-8:],
            "other format": b"?" + content[1:],
            "long header": content[:start] + b"\xff" * 4 + content[start + 4 :],
            "bad header": content[: start + 4] + b"?" + content[start + 5 :],
        }[damage]
    )
    assert cache.load(entry) is None
    again = OnnxRuntime(cache_dir=directory).load_model(file)
    np.testing.assert_array_equal(response(again, np.ones((1, 32), "f4")), expected)
    assert cache.load(entry) is not None


def test_an_entry_that_cannot_be_written_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clockwork.runtimes.onnx.cache.tempfile.mkstemp", full)
    host = OnnxRuntime(cache_dir=tmp_path / "cache").load_model(saved(dense(), tmp_path / "a.onnx"))
    assert host.info.batchable
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_partly_written_entry_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clockwork.runtimes.onnx.cache.Path.replace", full)
    OnnxRuntime(cache_dir=tmp_path / "cache").load_model(saved(dense(), tmp_path / "a.onnx"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_each_model_and_kind_of_machine_has_its_own_entry() -> None:
    entries = [
        cache.entry(Path("c"), digest, *conditions)
        for digest in ("a" * 64, "b" * 64)
        for conditions in (("v1", "cpu"), ("v2", "cpu"), ("v1", "gpu"), ("v1cpu", ""))
    ]
    assert len(set(entries)) == len(entries)


# -------------------------------------------------------------------------------------------------------- hardware


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (
            {"model name": "AMD EPYC", "cpu family": "26", "model": "2", "stepping": "1"},
            "AMD EPYC family 26 model 2 stepping 1",
        ),
        ({"model name": "Intel(R)  Xeon(R) Platinum 8488C", "model": "143"}, "Intel(R) Xeon(R) Platinum 8488C"),
        ({"model name": "AMD EPYC 9R14", "cpu family": "25", "model": "17"}, "AMD EPYC 9R14 family 25 model 17"),
        ({"model name": "Intel(R) Core(TM) i7-1165G7 @ 2.80GHz"}, "Intel(R) Core(TM) i7-1165G7"),
        ({"CPU implementer": "0x41", "CPU part": "0xd40"}, "machine 0x41 part 0xd40"),
        ({}, "machine"),
    ],
)
def test_the_name_of_a_cpu_identifies_its_generation(
    fields: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "machine")
    assert cpu_name(fields) == name
    assert device_kind(4, fields) == f"cpu {name} x4"


def test_the_first_processor_is_read(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: A: B\nflags\t\t: x y\n\nprocessor\t: 1\nmodel name\t: C\n")
    assert read_cpuinfo(file) == {"processor": "0", "model name": "A: B", "flags": "x y"}
    assert read_cpuinfo(tmp_path / "none") == {}


def test_cpus_with_different_features_have_different_instruction_sets() -> None:
    assert instruction_set({"flags": "a b"}) == instruction_set({"flags": "b a"})
    assert instruction_set({"flags": "a b"}) != instruction_set({"flags": "a"})


def test_a_runtime_has_a_version_and_a_device_kind() -> None:
    runtime: Runtime = OnnxRuntime()
    assert runtime.version.startswith("onnxruntime 1.")
    assert runtime.device_kind == OnnxRuntime().device_kind
    assert runtime.device_kind.startswith("cpu ")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got 3 Expected: 4\n Please fix", "Got 3 Expected: 4 Please fix"),
        ("Load model from /home/me/model.onnx failed: and/or 3/4", "Load model from failed: and/or 3/4"),
        ("/onnxruntime_src/a.cc:12 void f() bad", "void f() bad"),
        ("", "Exception"),
        ("x" * 1000, "x" * 300 + "..."),
    ],
)
def test_error_texts_of_onnxruntime_are_cleaned_and_shortened(text: str, kept: str) -> None:
    assert describe(Exception(text)) == kept
