"""Program that test_compiled runs in a separate process: ``threads.py FILE THREADS``.

The program makes one inference in a thread that has never called PyTorch. It prints how many threads this adds to the
process.
"""

import sys
from pathlib import Path
from threading import Thread

import numpy as np

from clockwork.runtimes.torch import TorchRuntime


def count() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def main(path: Path, threads: int) -> int:
    runtime = TorchRuntime(threads, allow_compiled=True)
    found: list[int] = []

    def lane() -> None:
        before = count()
        loaded.execute({"x": np.ones((16, 2048), np.float32)})
        found.append(count() - before)

    loaded = runtime.load_model(path).load_weights(0)
    thread = Thread(target=lane)
    thread.start()
    thread.join()
    return found[0]


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2])))
