"""Libraries write below Clockwork's cache directory, unless the environment names another place."""

import os
from pathlib import Path

import pytest

from clockwork.cli.caches import OF_LIBRARIES, cache_directory, give_libraries_a_cache


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in OF_LIBRARIES:
        monkeypatch.setenv(variable, "to be removed")  # so that it is as before when the test is over
        monkeypatch.delenv(variable)


def found() -> dict[str, str]:
    return {variable: os.environ.get(variable, "") for variable in OF_LIBRARIES}


def test_libraries_get_directories_below_ours(tmp_path: Path) -> None:
    give_libraries_a_cache()
    ours = tmp_path / "clockwork"
    assert cache_directory() == ours
    assert found() == {"CUDA_CACHE_PATH": str(ours / "cuda"), "MPLCONFIGDIR": str(ours / "matplotlib")}


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_CACHE_PATH", "/elsewhere")
    give_libraries_a_cache()
    assert found()["CUDA_CACHE_PATH"] == "/elsewhere"


def test_a_user_without_a_home_directory_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    give_libraries_a_cache()
    assert found() == dict.fromkeys(OF_LIBRARIES, "")
