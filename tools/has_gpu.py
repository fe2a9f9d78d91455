"""Is there an NVIDIA GPU that tests could run on? Says what is missing, and ends with 1, if not.

It asks the driver's own library, so that nothing has to be installed to find out.
"""

import ctypes
import sys

NEEDED = "make test-gpu needs an NVIDIA GPU, its driver (580 or newer, for CUDA 13) and some 4 GB for .venv-cuda"


def missing() -> str:
    """Why there is none; empty if there is one."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no CUDA driver on this machine (libcuda.so.1)"
    count = ctypes.c_int(0)
    for call, result in (("cuInit", cuda.cuInit(0)), ("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))):
        if result:
            return f"the CUDA driver cannot be used: {call} failed with error {result} (nvidia-smi may say more)"
    return "" if count.value else "the CUDA driver shows no device: see CUDA_VISIBLE_DEVICES"


if __name__ == "__main__":
    why = missing()
    if why:
        sys.exit(f"{why}. {NEEDED}. make test-torch runs the same tests on a fake device")
