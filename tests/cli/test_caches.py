"""Cache directories: what is written where, and that the server starts without them."""

import os
import signal
from pathlib import Path

import pytest

from cli.processes import clockwork, save_dense
from clockwork.cli import logs
from clockwork.cli.controller_process import profile_directory
from clockwork.cli.process import LIBRARY_CACHES, cache_directory, set_library_caches


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in LIBRARY_CACHES:
        monkeypatch.setenv(variable, "removed below")  # so that monkeypatch restores it after the test
        monkeypatch.delenv(variable)


def found() -> dict[str, str]:
    return {variable: os.environ.get(variable, "") for variable in LIBRARY_CACHES}


def test_libraries_get_subdirectories_of_the_cache(tmp_path: Path) -> None:
    set_library_caches()
    cache = tmp_path / "clockwork"
    assert cache_directory() == cache
    assert found() == {"CUDA_CACHE_PATH": str(cache / "cuda"), "MPLCONFIGDIR": str(cache / "matplotlib")}


def test_the_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_CACHE_PATH", "/elsewhere")
    set_library_caches()
    assert found()["CUDA_CACHE_PATH"] == "/elsewhere"


def test_without_a_home_directory_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    set_library_caches()
    assert found() == dict.fromkeys(LIBRARY_CACHES, "")


def test_without_a_home_directory_measured_times_are_not_kept_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(logs, "_at_start", [])
    monkeypatch.setattr(Path, "home", no_home)
    assert profile_directory(None, no_cache=False) == tmp_path / "clockwork" / "profiles"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert profile_directory(tmp_path, no_cache=False) == tmp_path
    assert profile_directory(None, no_cache=True) is None
    assert logs._at_start == []
    assert profile_directory(None, no_cache=False) is None
    assert logs._at_start == ["measured times are not kept, because there is no home directory; set --profile-cache"]


def test_serve_starts_with_caches_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    caches = [f"--profile-cache={tmp_path}/file/profiles", f"--model-cache={tmp_path}/file/models"]
    ports = ["--http=none", "--listen=127.0.0.1:0"]
    with clockwork("serve", str(save_dense(tmp_path / "dense.onnx")), *ports, *caches) as process:
        process.address()
        process.err.wait_for("WARNING .*file/models is not writable, so newly prepared models are not kept")
        process.err.wait_for("WARNING .* cannot be saved in .*file/profiles")
        process.send(signal.SIGTERM)
        assert process.ended() == 0
