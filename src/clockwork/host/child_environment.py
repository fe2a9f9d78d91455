"""The environment of child processes, and the time that they get to end."""

import os
from typing import Final

GRACE: Final = 5.0
"""Time in seconds that a process has to end after SIGTERM. After this time, the process is killed."""

CONFIG_VARIABLE: Final = "CLOCKWORK_CONFIG"
"""Environment variable with the path of the file. The program uses this variable if ``--config`` is not given."""


def environment_of_children() -> dict[str, str]:
    """Return this process's environment without the variables that configure commands.

    A child process gets this environment, so that only its arguments configure it.
    """
    prefixes = ("CLOCKWORK_SERVE_", "CLOCKWORK_CONTROLLER_", "CLOCKWORK_WORKER_")
    return {
        name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE and not name.startswith(prefixes)
    }
