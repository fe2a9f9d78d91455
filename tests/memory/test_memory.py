"""Memory as the operating system reports it: eviction returns memory, and shared weights exist once."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clockwork.units import MIB

WEIGHTS = 64 * MIB
MARGIN = 4 * MIB

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")


def measured(program: str, directory: Path) -> Any:
    tests = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(tests)}
    command = [sys.executable, str(tests / "memory" / "programs.py"), program, str(directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("program", ["packed", "copied"])
def test_evicted_weights_are_returned_to_the_system(program: str, tmp_path: Path) -> None:
    rounds = measured(program, tmp_path)
    first = rounds[0][0]
    for _, held, after in rounds:
        assert held > first + 0.7 * WEIGHTS
        assert after < first + MARGIN


def test_memory_does_not_grow_with_repeated_loads_and_evictions(tmp_path: Path) -> None:
    found = measured("oversubscribed", tmp_path)
    levels = found["levels"]
    assert found["loads"] > 20
    third = len(levels) // 3
    assert statistics.median(levels[-third:]) < statistics.median(levels[third : 2 * third]) + MARGIN


def test_a_thousand_copies_of_a_file_share_its_memory(tmp_path: Path) -> None:
    found = measured("copies", tmp_path)
    assert found["after"] - found["before"] < MARGIN
