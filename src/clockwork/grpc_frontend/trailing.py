"""The trailing metadata of calls that are no success."""

from clockwork.messages.status import status_name
from clockwork.oip.contract import Failure
from clockwork.units import MILLISECOND


def trailing(failed: Failure) -> tuple[tuple[str, str], ...]:
    """Return what a client is told beside code and message: status, predicted time and retry time."""
    made = [("clockwork-status", str(failed.status)), ("clockwork-status-name", status_name(failed.status))]
    if failed.predicted is not None:
        made.append(("clockwork-predicted-ms", f"{failed.predicted / MILLISECOND:.3f}"))
    if failed.retry_after is not None:
        made.append(("clockwork-retry-after-ms", f"{failed.retry_after / MILLISECOND:.3f}"))
    return tuple(made)
