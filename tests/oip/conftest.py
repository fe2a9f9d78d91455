"""Starts one server for all conformance tests."""

from collections.abc import Iterator

import pytest

from oip.conformance import Server, conforming


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with conforming(tmp_path_factory.mktemp("models")) as running:
        yield running
