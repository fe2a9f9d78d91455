"""Program that test_memory runs in a separate process: ``resident.py FILE ROUNDS``.

The program prints a JSON list. For each round, it contains the resident memory before LoadWeights, after an inference,
and after EvictWeights. The first round is a warm-up.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

from clockwork.runtimes.torch import TorchRuntime


def resident() -> int:
    """Return the resident memory in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(path: Path, rounds: int) -> list[list[int]]:
    host = TorchRuntime(allow_compiled=True).load_model(path)
    feed = {"x": np.ones((1, 2048), np.float32)}
    found = []
    for _ in range(rounds):
        before = resident()
        loaded = host.load_weights(0)
        loaded.execute(feed)
        held = resident()
        loaded.close()
        found.append([before, held, resident()])
    return found[1:]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
