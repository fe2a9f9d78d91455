"""The limit on open files; each test runs in its own process, because a limit can only be lowered once."""

import subprocess
import sys

import pytest

CODE = """
import logging, resource, sys
from clockwork.host.process_tuning import allow_connections
logging.basicConfig(format="%(message)s")
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_connections(wanted)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("wanted", "warned"), [(100, False), (900, True)])
def test_the_limit_on_files_is_raised_and_a_warning_is_logged_if_it_is_too_low(wanted: int, warned: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, "64", "1024", str(wanted)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1024\n"
    assert ("may open 1024 files, fewer than the 900 connections" in done.stderr) is warned
