"""Temporary directories: another place is used if one is not writable, and those of killed processes are removed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cli.processes import save_dense
from clockwork.errors import InvalidModelError
from clockwork.runtimes import scratch
from clockwork.runtimes.onnx import files, prepared

SLEEPER = """if 1:
    import sys, time
    from pathlib import Path
    from clockwork.runtimes.scratch import ScratchDirectory
    directory = ScratchDirectory(Path(sys.argv[1]))
    (directory.path / "file").write_text("x")
    print(directory.path, flush=True)
    time.sleep(600)
"""


def test_the_directory_of_a_killed_process_is_removed_and_that_of_a_live_one_is_kept(tmp_path: Path) -> None:
    (tmp_path / "clockwork-models").mkdir()
    with subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        scratch.sweep(tmp_path)
        assert (path / "file").exists()
        process.kill()
    scratch.sweep(tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == ["clockwork-models"]


def test_a_directory_is_removed_at_its_end(tmp_path: Path) -> None:
    with scratch.ScratchDirectory(tmp_path) as directory:
        (directory / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_prepared_in_another_place_if_one_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = files.read(save_dense(tmp_path / "dense.onnx"))
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(other))
    _, made = prepared.prepare(model, 1, Path("/proc/self"))
    assert made.nbytes > 0
    assert list(other.iterdir()) == []


def test_without_temporary_space_a_model_is_refused_with_the_places_that_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(scratch, "MEMORY", tmp_path / "missing")
    model = files.read(save_dense(tmp_path / "dense.onnx"))
    with pytest.raises(InvalidModelError, match=r"cannot prepare 'dense.onnx': no temporary space \(/proc/self: "):
        prepared.prepare(model, 1, Path("/proc/self"))


def test_a_temporary_directory_removes_those_of_killed_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "places", lambda: iter([tmp_path / "missing", tmp_path]))
    left = tmp_path / f"{scratch.PREFIX}left"
    left.mkdir()
    with scratch.temporary() as directory:
        assert directory.parent == tmp_path
        assert not left.exists()
