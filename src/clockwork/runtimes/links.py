"""Decides whether a symbolic link may point out of the model's directory.

A link is followed in three cases: its target is inside the model's directory, the operator named the directory on the
command line, or the target is below a directory that the operator allows. This rule protects repositories that other
users can write to. Without this rule, a link in such a repository could make the server read any file.
"""

from pathlib import Path
from typing import Final

from msgspec import Struct

OPTION: Final = "--allow-links-to"
"""Command-line option that allows links to point to files in a directory."""


class LinkPolicy(Struct, frozen=True):
    """Decides which links are followed. All paths are absolute.

    ``named`` contains the directories that the operator named. Links inside these directories may point anywhere.
    ``targets`` contains directories to whose files any link may point.
    """

    named: tuple[Path, ...] = ()
    targets: tuple[Path, ...] = ()

    def names(self, path: Path) -> bool:
        """Return whether the operator named this path or a directory above it. This method does not resolve links."""
        return any(path.is_relative_to(directory) for directory in self.named)

    def allows(self, link: Path, target: Path, home: Path) -> bool:
        """Return whether a link may be followed.

        Args:
            link: absolute path of the link itself.
            target: resolved path of the file that the link points to.
            home: resolved path of the directory that contains the model.
        """
        if target.is_relative_to(home) or any(target.is_relative_to(allowed.resolve()) for allowed in self.targets):
            return True
        parent = link.parent.resolve()
        return any(parent.is_relative_to(directory.resolve()) for directory in self.named)


NO_LINKS: Final = LinkPolicy()
"""The policy that allows no link to point out of a model's directory."""
