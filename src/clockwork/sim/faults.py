"""Injects faults into a simulated cluster, and decides which broken promises these faults explain."""

from collections.abc import Sequence
from typing import Any, Final

from clockwork.sim.cluster import Cluster
from clockwork.sim.scenario import FaultSpec
from clockwork.units import SECOND, Nanos, ms, seconds

AFTERMATH: Final[Nanos] = 2 * SECOND
"""A fault also explains broken promises of requests that arrive within this time after the fault has ended.

The scheduler's estimates need this time to adapt to the devices again.
"""

DRIFT_STEPS: Final = 20


def skews(faults: Sequence[FaultSpec]) -> dict[int, tuple[Nanos, float]]:
    """Return the offset and the drift of each worker's clock, by worker number."""
    return {f.worker: (ms(f.offset_ms), f.drift_ppm) for f in faults if f.kind == "clock-skew"}


def explains(faults: Sequence[FaultSpec], arrival: Nanos, answered: Nanos) -> bool:
    """Return whether one of the faults may have delayed a request. Times are relative to the workload's start."""
    for fault in faults:
        if fault.kind == "clock-skew":
            return True
        begin = seconds(fault.at_s)
        if begin <= answered and arrival <= begin + seconds(fault.for_s) + AFTERMATH:
            return True
    return False


def arrange(cluster: Cluster, faults: Sequence[FaultSpec], start: Nanos) -> None:
    """Schedule the faults on the loop. The workload begins at ``start``."""
    for fault in faults:
        begin, end = start + seconds(fault.at_s), start + seconds(fault.at_s + fault.for_s)
        if fault.kind == "slow-device":
            cluster.loop.at(begin, _set_factor, (cluster, fault, fault.factor))
            cluster.loop.at(end, _set_factor, (cluster, fault, 1.0))
        elif fault.kind == "drift":
            for step in range(1, DRIFT_STEPS + 1):
                factor = 1 + (fault.factor - 1) * step / DRIFT_STEPS
                cluster.loop.at(
                    begin + (end - begin) * (step - 1) // DRIFT_STEPS, _set_factor, (cluster, fault, factor)
                )
            cluster.loop.at(end, _set_factor, (cluster, fault, 1.0))
        elif fault.kind == "stalled-link":
            cluster.loop.at(begin, _stall, (cluster, fault, end))
        elif fault.kind == "worker-death":
            cluster.loop.at(begin, _kill, (cluster, fault))
            cluster.loop.at(end, _restart, (cluster, fault))
        elif fault.kind == "failing":
            cluster.loop.at(begin, _set_failing, (cluster, fault, min(1.0, fault.factor)))
            cluster.loop.at(end, _set_failing, (cluster, fault, 0.0))


def _set_factor(argument: Any) -> None:
    cluster, fault, factor = argument
    process = cluster.workers[fault.worker].process
    if process is not None:
        for durations in process.worker.durations:
            durations.factor = factor * durations.usual_factor


def _set_failing(argument: Any) -> None:
    cluster, fault, share = argument
    process = cluster.workers[fault.worker].process
    if process is not None:
        process.worker.failing = share


def _stall(argument: Any) -> None:
    cluster, fault, until = argument
    cluster.workers[fault.worker].up.stall(until)
    cluster.workers[fault.worker].down.stall(until)


def _kill(argument: Any) -> None:
    cluster, fault = argument
    cluster.disconnect(fault.worker, "the worker process died")


def _restart(argument: Any) -> None:
    cluster, fault = argument
    if not cluster.workers[fault.worker].connected:
        cluster.connect(fault.worker)
