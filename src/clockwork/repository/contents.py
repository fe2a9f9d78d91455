"""Describes the files of a model without reading their content, so that changes are noticed.

Hidden files and `IGNORED` directories do not count. Links are followed, because the content of a Kubernetes volume
changes when a link changes. If a link points to a directory outside of the model, the directory is not read unless the
link policy allows the link.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.runtimes.links import LinkPolicy
from clockwork.runtimes.locating import IGNORED, MAX_DIGITS, is_integer
from clockwork.runtimes.scratch import PREFIX
from clockwork.units import Nanos

MAX_FILES: Final = 10_000
"""Limit of the files and directories of one model."""

MAX_DEPTH: Final = 8
"""Largest depth of the directories of one model."""


class Contents(Struct, frozen=True):
    """The files of a model at one moment.

    - ``fingerprint``: a digest of the names, sizes, modification times and inodes of the files
    - ``inode``: device and inode of the model's directory, or of its file
    - ``newest``: time of the latest change within the directory, in nanoseconds since 1970. For files inside the
      directory, this is the change time (ctime), which programs cannot set. For the directory itself, this is the
      modification time, because a rename of the directory changes its ctime
    - ``versions``: the fingerprint of each version's directory; empty if no directory has a number as its name
    - ``misnamed``: directories whose name is a number with a sign, leading zeros or too many digits
    """

    fingerprint: str
    inode: tuple[int, int]
    newest: Nanos
    versions: dict[int, str] = {}
    misnamed: tuple[str, ...] = ()


def is_ignored(name: str) -> bool:
    """Return whether a repository ignores files and directories of this name."""
    return name.startswith((".", PREFIX)) or name in IGNORED


def contents_of(path: Path, links: LinkPolicy) -> Contents:
    """Return the contents of a model, which is a directory or a single file.

    Raises:
        OSError: a directory cannot be read.
        InvalidModelError: the model has more than `MAX_FILES` files or more than `MAX_DEPTH` levels.
    """
    return _Walk(path, links).contents()


class _Walk:
    """Counts the files of one model and remembers the latest change."""

    def __init__(self, path: Path, links: LinkPolicy) -> None:
        self._path = path
        self._links = links
        self._left = MAX_FILES
        self._newest: Nanos = 0

    def contents(self) -> Contents:
        top = self._path.stat()
        self._newest = top.st_mtime_ns
        inode = (top.st_dev, top.st_ino)
        if not stat.S_ISDIR(top.st_mode):
            digest = hashlib.blake2b(_line(self._path.name, top), digest_size=16)
            return Contents(digest.hexdigest(), inode, self._newest)
        entries = self._entries(str(self._path))
        directories = {entry.name for entry in entries if is_integer(entry.name) and entry.is_dir()}
        named = {name for name in directories if _is_version(name)}
        digest = hashlib.blake2b(digest_size=16)
        versions: dict[int, str] = {}
        for entry in entries:
            part = hashlib.blake2b(digest_size=16)
            if named and entry.name not in named and entry.is_dir():
                continue  # not a version; for example Triton's directories "warmup" and "configs"
            self._add(part, entry, "", 1)
            digest.update(part.digest())
            if entry.name in named:
                versions[int(entry.name)] = part.hexdigest()
        return Contents(digest.hexdigest(), inode, self._newest, versions, tuple(sorted(directories - named)))

    def _add(self, digest: "hashlib.blake2b", entry: "os.DirEntry[str]", prefix: str, depth: int) -> None:
        """Add a file, or a directory with everything that it contains, to a digest."""
        name = prefix + entry.name
        try:
            found = entry.stat()
        except FileNotFoundError:  # the target of a link is missing, or the file was just removed
            digest.update(_line(name, None))
            return
        self._newest = max(self._newest, found.st_ctime_ns, found.st_mtime_ns)
        if not stat.S_ISDIR(found.st_mode):
            digest.update(_line(name, found))
            return
        digest.update(_line(f"{name}/", None))
        if depth > MAX_DEPTH:
            raise InvalidModelError(
                f"directory {self._path.name!r} has more than {MAX_DEPTH} levels of directories, which is the limit: "
                "move the model out of them"
            )
        if self._leads_out(entry):
            return
        for child in self._entries(entry.path):
            self._add(digest, child, f"{name}/", depth + 1)

    def _leads_out(self, entry: "os.DirEntry[str]") -> bool:
        if not entry.is_symlink():
            return False
        link = Path(entry.path)
        return not self._links.allows(link, link.resolve(), self._path.resolve())

    def _entries(self, directory: str) -> "list[os.DirEntry[str]]":
        """Return the entries of a directory in the order of their names."""
        entries = []
        with os.scandir(directory) as found:
            for entry in found:
                self._left -= 1
                if self._left < 0:
                    raise InvalidModelError(
                        f"directory {self._path.name!r} contains more than {MAX_FILES} files, which is the limit: "
                        "move other files out of it"
                    )
                if not is_ignored(entry.name):
                    entries.append(entry)
        return sorted(entries, key=lambda entry: entry.name)


def _line(name: str, found: os.stat_result | None) -> bytes:
    text = "" if found is None else f"{found.st_size} {found.st_mtime_ns} {found.st_dev} {found.st_ino}"
    return f"{name}\0{text}\0".encode("utf-8", "surrogateescape")


def _is_version(name: str) -> bool:
    return name.isdigit() and len(name) <= MAX_DIGITS and (name[0] != "0" or name == "0")
