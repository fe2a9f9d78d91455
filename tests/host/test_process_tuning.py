"""Each test runs in its own process, because a limit on open files can only be lowered once."""

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


SLICES = """
import ctypes, os, platform, struct
from clockwork.host.process_tuning import keep_core, shorten_time_slice, steady_timing, yield_to_devices

def show():
    found = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]
    assert not ctypes.CDLL(None).syscall(number, 0, found, len(found), 0)
    policy, runtime = struct.unpack_from("=I", found, 4)[0], struct.unpack_from("=Q", found, 24)[0]
    print(policy, os.getpriority(os.PRIO_PROCESS, 0), runtime)

os.nice(3)
shorten_time_slice(), show()
keep_core(), show()
yield_to_devices(), show()
with steady_timing(yields=True):
    show()
show()
with steady_timing():
    show()
"""


def test_threads_that_share_a_core_set_their_policy_and_time_slice() -> None:
    done = subprocess.run([sys.executable, "-c", SLICES], capture_output=True, text=True, check=True)
    found = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [policy for policy, _, _ in found] == [0, 0, 3, 3, 0, 0]  # 3: SCHED_BATCH
    assert len({nice for _, nice, _ in found}) == 1
    short, long, *_ = [time for _, _, time in found]
    if short:  # kernels before 6.12 report no time slices
        assert (short, long) == (100_000, 10_000_000)
