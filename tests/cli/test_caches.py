"""Libraries write below Clockwork's cache directory, unless the environment names another directory."""

import os
from pathlib import Path

import pytest

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
