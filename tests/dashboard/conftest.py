"""Starts one browser for the tests of the dashboard."""

from collections.abc import Callable, Iterator

import pytest

from browser import Browser, driving, why_missing


@pytest.fixture(scope="session")
def windows() -> Iterator[Callable[[], Browser]]:
    if missing := why_missing():
        pytest.skip(missing)
    with driving() as window:
        yield window


@pytest.fixture
def browser(windows: Callable[[], Browser]) -> Iterator[Browser]:
    """A new window, without the storage of earlier tests."""
    window = windows()
    window.log()
    yield window
    window.open("about:blank")
