"""Evicted weights are returned to the operating system."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clockwork.units import MIB
from runtimes.torch.programs import Wide, saved

WEIGHTS = 64 * MIB
MARGIN = 4 * MIB


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")


def check_returned(path: Path, rounds: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("resident.py")), str(path), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    first = found[0][0]
    for _, held, after in found:
        assert held > first + 0.9 * WEIGHTS
        assert after < first + MARGIN


def test_evicted_weights_are_returned_to_the_system(tmp_path: Path) -> None:
    check_returned(saved(Wide(), tmp_path / "m.pt2", (1, 2048)), rounds=6)


def test_evicted_weights_of_compiled_programs_are_returned_to_the_system(compiled_busy: Path) -> None:
    check_returned(compiled_busy, rounds=100)
