"""Tests marked ``gpu`` need an NVIDIA GPU and are skipped without one, with the reason (make test-gpu).

Most tests run on a fake device and on a real one, so that without a GPU only the driver is not tested.
"""

import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "has_gpu.py"


def missing() -> str:
    """Return the reason if no GPU can be used; empty if one can."""
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
    """Kind of device: a fake one, and a real one."""
    chosen: str = request.param
    return chosen
