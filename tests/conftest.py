"""Defines the options of the tests."""

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add four options.

    - ``--rewrite`` writes golden transcripts instead of comparing them. Commit only differences that you can explain.
    - ``--gpu`` makes tests that need a GPU fail instead of being skipped if there is no GPU.
    - ``--kubernetes`` makes the tests in ``tests/manifests`` fail if helm or the schemas are not installed.
    - ``--compiled`` runs the tests on compiled modules. It ends with an error if Python finds the sources instead.
    """
    parser.addoption("--rewrite", action="store_true", help="write golden transcripts anew")
    parser.addoption(
        "--gpu", action="store_true", help="fail tests that need a GPU if there is none, instead of skipping them"
    )
    parser.addoption("--kubernetes", action="store_true", help="fail if helm or schemas are missing")
    parser.addoption("--compiled", action="store_true", help="fail unless the modules under test are compiled")


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts background jobs with SIGINT ignored, and the processes of the tests inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--compiled"):
        from clockwork.state import gpu

        if not gpu.__file__.endswith(".so"):
            raise pytest.UsageError(f"--compiled, but {gpu.__file__} is interpreted; run: make test-compiled")
