"""The share of processor time in use."""

import os
import subprocess
import sys

from clockwork.clock import MonotonicClock, process_time
from clockwork.host.cpu_usage import PERIOD, CpuUsage


def test_no_share_is_reported_before_the_period_is_over() -> None:
    busy = CpuUsage(1000)
    assert busy.sample(1000 + PERIOD - 1) is None


def test_a_thread_that_works_all_the_time_is_busy() -> None:
    clock = MonotonicClock()
    busy = CpuUsage(clock.now())
    while (share := busy.sample(clock.now())) is None:
        pass
    assert 0.0 < share <= 1.0


def test_another_process_is_measured_until_it_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    busy = CpuUsage(0)
    busy.follow(process.pid)
    assert process_time(process.pid) >= 0
    process.communicate(b"\n")
    assert busy.sample(PERIOD) is not None
    assert busy.sample(2 * PERIOD) is not None


def test_the_process_time_is_that_of_the_process() -> None:
    assert abs(process_time(os.getpid()) - process_time()) < 1_000_000_000
