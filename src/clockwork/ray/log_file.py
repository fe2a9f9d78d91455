"""The log of a child process: a file in Ray's log directory, which Ray's dashboard shows."""

import os
import shutil
from pathlib import Path
from typing import Final

from clockwork.units import KIB, MIB, Bytes

MAX_LOG_BYTES: Final[Bytes] = 64 * MIB
"""Size in bytes above which a log is moved to a second file, which replaces the previous second file."""

TAIL_BYTES: Final[Bytes] = 4 * KIB
"""Number of bytes in which the last line of a log is searched."""


class LogFile:
    """A file to which processes append. Only this object truncates the file."""

    def __init__(self, path: Path) -> None:
        """Open the file for appending, and create it if needed."""
        self.path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def limit(self) -> None:
        """Move the content to the file ``*.1`` if the log is too large. Lines written meanwhile may be lost."""
        if os.fstat(self.descriptor).st_size > MAX_LOG_BYTES:
            shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
            os.ftruncate(self.descriptor, 0)

    def last_line(self) -> str:
        """Return the last line that is not empty, or an empty text."""
        with self.path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")
