"""Options of the tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Three options.

    ``--rewrite``: write golden transcripts anew instead of comparing. Commit only a difference you can explain.
    ``--gpu``: a test that needs a GPU fails where there is none, rather than being skipped.
    ``--compiled``: the tests are meant for the compiled modules; nothing runs where Python finds the sources instead.
    """
    parser.addoption("--rewrite", action="store_true", help="write golden transcripts anew")
    parser.addoption("--gpu", action="store_true", help="fail, rather than skip, where a GPU is needed and missing")
    parser.addoption("--compiled", action="store_true", help="fail unless the modules under test are compiled")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compiled"):
        from clockwork.state import gpu

        if not gpu.__file__.endswith(".so"):
            raise pytest.UsageError(f"--compiled, but {gpu.__file__} is interpreted; run: make test-compiled")
