"""Check for an NVIDIA GPU on which tests can run. If there is none, print the reason, and exit with code 1.

The check uses the driver's library, so that it needs no package.
"""

import ctypes
import sys

NEEDED = "make test-gpu needs an NVIDIA GPU, its driver (580 or newer, for CUDA 13) and about 4 GB for .venv-cuda"


def missing() -> str:
    """Return the reason for which no GPU can be used, or an empty text if there is a GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no CUDA driver on this machine (libcuda.so.1)"
    count = ctypes.c_int(0)
    for call, result in (("cuInit", cuda.cuInit(0)), ("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))):
        if result:
            return f"the CUDA driver cannot be used: {call} failed with error {result} (nvidia-smi may show more)"
    return "" if count.value else "the CUDA driver finds no device; check CUDA_VISIBLE_DEVICES"


if __name__ == "__main__":
    why = missing()
    if why:
        sys.exit(f"{why}. {NEEDED}. make test-torch runs the same tests on a fake device")
