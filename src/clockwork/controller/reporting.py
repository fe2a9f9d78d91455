"""Reports about workers, for people and for programs."""

from typing import Final

from clockwork.controller.events import Report

_TEXTS: Final = {
    "connected": "worker {worker} connected",
    "lost": "worker {worker} is lost: {reason}",
    "silent": "worker {worker} is silent: {reason}",
    "heard": "worker {worker} is heard again",
    "ready": "worker {worker} takes part in serving",
}


def worker_report(level: str, worker_id: str, what: str, reason: str = "") -> Report:
    """What became of a worker: connected, lost, silent, heard again, ready."""
    fields: dict[str, str | int] = {"worker": worker_id}
    if reason:
        fields["reason"] = reason
    return Report(level, _TEXTS[what].format(worker=worker_id, reason=reason), f"worker_{what}", fields)
