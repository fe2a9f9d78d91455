"""Options of the tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options.

    ``--rewrite``: write golden transcripts anew instead of comparing. Commit only a difference you can explain.
    ``--gpu``: a test that needs a GPU fails where there is none, rather than being skipped.
    """
    parser.addoption("--rewrite", action="store_true", help="write golden transcripts anew")
    parser.addoption("--gpu", action="store_true", help="fail, rather than skip, where a GPU is needed and missing")
