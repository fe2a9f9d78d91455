"""As many open files as this process may have: each connection is one."""

import logging
import resource
from typing import Final

RESERVE: Final = 256
"""Files that are no connections: models, libraries, listening sockets, the event loop's own."""

log = logging.getLogger("clockwork.controller")


def allow_connections(wanted: int) -> None:
    """Raise the soft limit to the hard one; warn if ``wanted`` connections to one port do not fit even then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted + RESERVE:
        log.warning(
            "this process may open %d files, fewer than the %d connections that a port accepts: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE= in systemd)",
            hard,
            wanted,
        )
