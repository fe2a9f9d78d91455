"""Which lines a process logs, and changes of this while the process runs.

Logging is global, so the tests run in child processes.
"""

import subprocess
import sys

import pytest

LINES = ("debug", "info", "warning", "error", "critical")
PROGRAM = """
import logging, sys
sys.path[:0] = {path!r}
from clockwork.host.log_levels import LOG
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(message)s"))
logging.basicConfig(handlers=[handler])
LOG.attach(handler, {level!r})
LOG.change({values!r})
for level in {lines!r}:
    getattr(logging.getLogger("clockwork.any"), level)(level)
print(LOG.settings.log_verbose_level, logging.getLogger("asyncio").isEnabledFor(logging.INFO))
"""


def logged(level: str, **values: object) -> list[str]:
    """Return the levels of the lines that are logged, and a line about the settings."""
    code = PROGRAM.format(path=sys.path, level=level, values=values, lines=LINES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_of_the_start_logs_this_level_and_all_higher_levels(level: str) -> None:
    *lines, settings = logged(level)
    assert lines == list(LINES[LINES.index(level) :])
    assert settings == ("1 True" if level == "debug" else "0 False")


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"log_verbose_level": 1}, LINES),
        ({"log_info": False}, LINES[2:]),
        ({"log_info": False, "log_verbose_level": 4}, ("debug", *LINES[2:])),
        ({"log_warning": False}, ("info", "error", "critical")),
        ({"log_info": False, "log_warning": False, "log_error": False}, ()),
    ],
)
def test_each_level_is_switched_on_its_own(values: dict[str, object], lines: tuple[str, ...]) -> None:
    assert logged("info", **values)[:-1] == list(lines)
