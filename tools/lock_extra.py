"""Write the lock file of an extra: the packages that it needs in addition to other lock files.

Usage: ``lock_extra.py BASE_LOCK[,BASE_LOCK] FOUND OUT [REPORT]``. ``FOUND`` is the output of pip-compile for the extra.
``REPORT`` is a report of ``pip install --no-deps --report`` about packages that are used without their dependencies.
"""

import json
import sys
from pathlib import Path

from lock_torch import entries, lines


def reported(path: str) -> dict[str, tuple[str, list[str]]]:
    """Return the version and the hash of each package in a report of pip."""
    installs = json.loads(Path(path).read_text())["install"]
    return {
        it["metadata"]["name"].lower().replace(".", "-"): (
            f"=={it['metadata']['version']}",
            [f"sha256:{it['download_info']['archive_info']['hashes']['sha256']}"],
        )
        for it in installs
    }


def main(bases: str, found: str, out: str, *reports: str) -> None:
    """Write the lock file."""
    known = {name for base in bases.split(",") for name in entries(base)}
    locked = {name: it for name, it in entries(found).items() if name not in known}
    for report in reports:
        locked |= reported(report)
    header = f"#\n# Made by: make lock\n# On top of {bases.replace(',', ' and ')}; see tools/lock_extra.py.\n#\n"
    Path(out).write_text(header + lines(locked))


if __name__ == "__main__":
    main(*sys.argv[1:])
