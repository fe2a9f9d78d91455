"""Texts that explain what a server waits for during start-up. The log, ``status`` and ``load`` show these texts."""

from clockwork.controller.stage import Stage
from clockwork.messages.requests import Progress


def waits_for(stage: str, progress: Progress) -> str:
    """Return a text that explains what the server waits for in a stage.

    The text is empty if the server does not wait.
    """
    if stage == Stage.QUERYING.value:
        return (
            "waits until as many workers as configured (--workers) are connected and have reported their state; "
            "start one with: clockwork worker --controller HOST:PORT"
        )
    if stage == Stage.LOADING.value and progress.done == progress.total:
        return (
            "waits for clients to load models (clockwork load PATH); serving begins when no load has arrived for "
            "--load-timeout"
        )
    return ""
