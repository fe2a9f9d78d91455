"""Tests marked ``gpu`` need an NVIDIA GPU. Without a GPU, they are skipped with the reason (make test-gpu).

Most tests run on a fake device and on a real one. So without a GPU, only the driver is not tested.
"""

import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "has_gpu.py"


def missing() -> str:
    """Return the reason why no GPU can be used. The text is empty if a GPU can be used."""
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
    """Kind of device: ``fake`` or ``cuda``."""
    chosen: str = request.param
    return chosen
