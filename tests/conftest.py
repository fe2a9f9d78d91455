"""Options of the tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--rewrite``: write golden transcripts anew instead of comparing. Commit only a difference you can explain."""
    parser.addoption("--rewrite", action="store_true", help="write golden transcripts anew")
