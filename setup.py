"""What pyproject.toml cannot state: with CLOCKWORK_COMPILED=1 the wheel contains compiled modules.

Use `make dist COMPILED=1` or `make compile`. Without the variable the wheel is pure Python.
"""

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))


def compiled() -> list[Any]:
    """Return the extension modules of the wheel: none, unless they are requested."""
    if os.environ.get("CLOCKWORK_COMPILED") != "1":
        return []
    from compiled import modules
    from mypyc.build import mypycify

    return list(mypycify([str(path) for path in modules().values()], opt_level="3", group_name="clockwork"))


setup(ext_modules=compiled())
