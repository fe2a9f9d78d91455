"""Finds the file for a path from a request, and checks that the file may be read.

A worker reads models only inside one directory, its model root. Paths in a model repository are resolved in the same
way. Error messages repeat the path from the request, and never reveal where the root is or which files are outside it.
Users with write access to the root are trusted not to change a path between the check and the reading.
"""

from pathlib import Path, PurePosixPath
from typing import Final

from clockwork.errors import InvalidModelError
from clockwork.runtimes.links import NO_LINKS, OPTION, LinkPolicy

MAX_PATH: Final = 4096
"""Longest path in characters. Linux has the same limit."""


def resolve(root: Path, path: str, links: LinkPolicy = NO_LINKS, kind: str = "the worker's model root") -> Path:
    """Return the absolute path of an existing file or directory below ``root``.

    A symbolic link is followed if its target is below the root, or if ``links`` allows the link. The result contains
    the link's name, not its target. ``kind`` is the name of the root in messages.

    Raises:
        InvalidModelError: the path is empty, absolute, too long, outside of the root, or does not exist.
    """
    shown = repr(path if len(path) <= 200 else path[:200] + "...")
    if not path or "\0" in path or len(path) > MAX_PATH:
        raise InvalidModelError(f"a model's path has 1 to {MAX_PATH} characters and no NUL; this one is {shown}")
    pure = PurePosixPath(path)
    if pure.is_absolute():
        raise InvalidModelError(f"the path {shown} is absolute: give it relative to {kind}")
    if ".." in pure.parts:
        raise InvalidModelError(f"the path {shown} contains '..': give it relative to {kind}")
    if not pure.parts:
        raise InvalidModelError(f"the path {shown} names the model root itself, not a model")
    found = root / pure
    try:
        home, real = root.resolve(strict=True), found.resolve(strict=True)
    except (OSError, RuntimeError):  # until Python 3.13, links in a circle raise RuntimeError
        # For a model in an image, KServe makes a link through /proc/PID/root, whose target has no path here.
        if links.names(found) and found.exists():
            return found
        raise InvalidModelError(f"there is no {shown} under {kind}: check the path") from None
    if not links.allows(home / pure, real, home):
        raise InvalidModelError(f"the path {shown} is outside of {kind} ({OPTION} allows its target)")
    return home / pure
