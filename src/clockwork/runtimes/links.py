"""Decides whether a symbolic link in a model's directory may lead out of it.

A link is followed if its target stays in the directory, if the operator named the directory on the command line, or if
the target lies below a directory that the operator allows. Otherwise a repository that others may write to could make
the server read any file.
"""

from pathlib import Path
from typing import Final

from msgspec import Struct

OPTION: Final = "--allow-links-to"
"""Name of the option that allows targets."""


class LinkPolicy(Struct, frozen=True):
    """Which links are followed; all paths are absolute.

    ``named``: directories that the operator named; links in them may lead anywhere. ``targets``: links from everywhere
    may lead below these directories.
    """

    named: tuple[Path, ...] = ()
    targets: tuple[Path, ...] = ()

    def names(self, path: Path) -> bool:
        """Return whether the operator named this path, or a directory above it. Links are not resolved."""
        return any(path.is_relative_to(directory) for directory in self.named)

    def allows(self, link: Path, target: Path, home: Path) -> bool:
        """Return whether a link may be followed.

        Args:
            link: absolute path of the link itself.
            target: the file that it leads to, resolved.
            home: the directory that holds the model, resolved.
        """
        if target.is_relative_to(home) or any(target.is_relative_to(allowed.resolve()) for allowed in self.targets):
            return True
        parent = link.parent.resolve()
        return any(parent.is_relative_to(directory.resolve()) for directory in self.named)


NO_LINKS: Final = LinkPolicy()
"""No link may lead out of a model's directory."""
