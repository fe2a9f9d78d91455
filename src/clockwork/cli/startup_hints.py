"""What a server waits for before it serves, and what the operator can do; for the log, ``status`` and ``load``."""

from clockwork.controller.stage import Stage
from clockwork.messages.requests import Progress


def waits_for(stage: str, progress: Progress) -> str:
    """Return what the server waits for in a stage; empty if it waits for nothing."""
    if stage == Stage.QUERYING.value:
        return "waits until as many workers as configured (--workers) are connected and have reported their state"
    if stage == Stage.LOADING.value and progress.done == progress.total:
        return "waits for clients to load models (clockwork load PATH); serves when no load has come for --load-timeout"
    return ""
