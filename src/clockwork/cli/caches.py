"""Where Clockwork, and the libraries that it loads, keep what they can make again: in one directory."""

import os
from pathlib import Path
from typing import Final

OF_LIBRARIES: Final = {"CUDA_CACHE_PATH": "cuda", "MPLCONFIGDIR": "matplotlib"}
"""Environment variable of a library -> its directory below ours; else they write to ``~/.nv``, and to ``~/.config``."""


def cache_directory() -> Path:
    """Where Clockwork keeps what it can make again (XDG Base Directory Specification).

    Raises:
        RuntimeError: this user has no home directory.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clockwork"


def give_libraries_a_cache() -> None:
    """Let libraries that are loaded from now on write below ours, unless the environment says where."""
    try:
        ours = cache_directory()
    except RuntimeError:  # then the libraries cannot write to a home directory either
        return
    for variable, name in OF_LIBRARIES.items():
        os.environ.setdefault(variable, str(ours / name))
