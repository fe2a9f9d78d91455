"""A worker that serves prepares models in another process."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockwork.errors import InvalidModelError
from clockwork.runtimes.onnx import OnnxRuntime, isolated
from onnx_graphs import dense, saved
from responses import response


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_prepared_in_another_process_answers_as_one_prepared_here(tmp_path: Path, *, cached: bool) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    here = OnnxRuntime().load_model(file)
    there = OnnxRuntime(cache_dir=tmp_path / "cache" if cached else None).load_model(file, isolated=True)
    rows = np.arange(32, dtype="f4").reshape(1, 32)
    np.testing.assert_array_equal(response(there, rows), response(here, rows))
    assert there.info.digest == here.info.digest
    assert there.info.batchable == here.info.batchable


@pytest.mark.parametrize("cached", [True, False])
def test_the_serving_process_does_not_parse_or_try_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cached: bool
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    file = saved(dense(), tmp_path / "a.onnx")
    runtime = OnnxRuntime(cache_dir=tmp_path / "cache" if cached else None)
    monkeypatch.setattr(runtime, "_read", never)
    monkeypatch.setattr(runtime, "_optimise_and_try", never)
    runtime.load_model(file, isolated=True)


def test_a_broken_model_is_reported_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(InvalidModelError, match=r"'a\.onnx' is not an ONNX model"):
        OnnxRuntime(cache_dir=tmp_path / "cache").load_model(tmp_path / "a.onnx", isolated=True)


def test_a_child_that_is_killed_is_reported_and_nothing_else_suffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    runtime = OnnxRuntime(cache_dir=tmp_path / "cache")
    popen = subprocess.Popen

    def killed(*arguments: Any, **options: Any) -> Any:
        child = popen(*arguments, **options)
        os.kill(child.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(subprocess, "Popen", killed)
    with pytest.raises(InvalidModelError, match="ended with signal SIGKILL"):
        runtime.load_model(file, isolated=True)
    monkeypatch.undo()
    runtime.load_model(file, isolated=True)


def test_a_child_that_hangs_is_killed_after_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    runtime = OnnxRuntime(cache_dir=tmp_path / "cache")
    monkeypatch.setattr(isolated, "CHILD", "import time; time.sleep(1000)")
    monkeypatch.setattr(isolated, "MAX_SECONDS", 0.2)
    with pytest.raises(InvalidModelError, match=r"preparing it took longer than 0\.2 s, which is the limit"):
        runtime.load_model(file, isolated=True)


def test_a_part_of_an_answer_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    runtime = OnnxRuntime(cache_dir=tmp_path / "cache")
    killed = "import os, signal; os.write(1, b'part'); os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(isolated, "CHILD", killed)
    with pytest.raises(InvalidModelError, match="ended with signal SIGKILL"):
        runtime.load_model(file, isolated=True)


def test_a_cached_model_needs_no_other_process_and_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    file = saved(dense(), tmp_path / "a.onnx")
    OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file, isolated=True)
    runtime = OnnxRuntime(cache_dir=tmp_path / "cache")
    monkeypatch.setattr(subprocess, "Popen", never)
    monkeypatch.setattr(runtime, "_read", never)
    model = runtime.load_model(file, isolated=True)
    monkeypatch.undo()
    here = OnnxRuntime().load_model(file)
    rows = np.arange(32, dtype="f4").reshape(1, 32)
    np.testing.assert_array_equal(response(model, rows), response(here, rows))
    assert model.info.digest == here.info.digest


def test_a_damaged_cache_entry_is_prepared_again_in_another_process(tmp_path: Path) -> None:
    file = saved(dense(), tmp_path / "a.onnx")
    OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file, isolated=True)
    (entry,) = (tmp_path / "cache").glob("*.onnx-prepared")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(bytes(content))
    OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file, isolated=True)
    assert entry.read_bytes() != bytes(content)


def test_the_child_has_the_lowest_ordinary_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_priority = isolated.CHILD.partition("from ")[0]
    reported = tmp_path / "priority"
    file = saved(dense(), tmp_path / "a.onnx")
    program = f"{set_priority}open({str(reported)!r}, 'w').write(str(os.getpriority(os.PRIO_PROCESS, 0)))"
    monkeypatch.setattr(isolated, "CHILD", program)
    with pytest.raises(InvalidModelError):
        OnnxRuntime(cache_dir=tmp_path / "cache").load_model(file, isolated=True)
    assert reported.read_text() == "19"
