"""Memory as the operating system sees it: what is evicted is given back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clockwork.units import MIB
from runtimes.torch.programs import Wide, saved

WEIGHTS = 64 * MIB
MARGIN = 4 * MIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_weights_that_are_evicted_are_given_back_to_the_system(tmp_path: Path) -> None:
    path = saved(Wide(), tmp_path / "m.pt2", (1, 2048))
    command = [sys.executable, str(Path(__file__).with_name("resident.py")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)
    first = rounds[0][0]
    for _, held, after in rounds:
        assert held > first + 0.9 * WEIGHTS
        assert after < first + MARGIN
