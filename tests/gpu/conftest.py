"""Tests marked ``gpu`` need an NVIDIA GPU; where there is none they are skipped, with the reason (make test-gpu).

Most bodies are run twice, over a fake device and over a real one, so that only the driver is unproven where there is no
GPU.
"""

import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "has_gpu.py"


def missing() -> str:
    """Why there is no GPU; empty if there is one."""
    why: str = runpy.run_path(str(TOOL))["missing"]()
    return why


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    why = missing()
    if why and item.config.getoption("--gpu"):
        pytest.fail(why, pytrace=False)
    if why:
        pytest.skip(why)


@pytest.fixture(params=["fake", pytest.param("cuda", marks=pytest.mark.gpu)])
def kind(request: pytest.FixtureRequest) -> str:
    """A fake device, and a real one."""
    chosen: str = request.param
    return chosen
