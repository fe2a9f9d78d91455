"""Write the lock file of an extra: the packages that it needs in addition to another lock file.

Usage: ``lock_extra.py BASE_LOCK FOUND OUT``. ``FOUND`` is the output of pip-compile for the extra.
"""

import sys
from pathlib import Path

from lock_torch import entries, lines

HEADER = "#\n# Made by: make lock\n# On top of requirements-dev.lock; see tools/lock_extra.py.\n#\n"


def main(base: str, found: str, out: str) -> None:
    """Write the lock file."""
    known = entries(base)
    Path(out).write_text(HEADER + lines({name: it for name, it in entries(found).items() if name not in known}))


if __name__ == "__main__":
    main(*sys.argv[1:])
