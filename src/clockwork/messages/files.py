"""Messages that transfer the files of a model from the controller to a worker.

The controller sends the action `FetchModel` over the worker's connection. The worker then opens a second connection
with the role `clockwork.messages.link.ROLE_FILES`, and requests the files over it. So no file delays an action.

A model's files are described by a `FileList`. The *content* of a model is the SHA-256 of its encoded list, in
hexadecimal. A file is divided into parts of `PART_BYTES`, of which only the last may be shorter. The list contains the
SHA-256 of each part. So a worker can check each part, and can continue an interrupted transfer at any part.
"""

from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.units import GIB, KIB, MIB, Bytes

PART_BYTES: Final[Bytes] = 256 * KIB
"""Size of a part of a file."""

DIGEST_BYTES: Final = 32
"""Size of a SHA-256."""

MAX_FILES: Final = 1000
"""Largest number of files of a model."""

MAX_MODEL_BYTES: Final[Bytes] = 64 * GIB
"""Largest total size of the files of a model."""

MAX_LIST_BYTES: Final[Bytes] = 16 * MIB
"""Largest size of an encoded `FileList`. The digests of `MAX_MODEL_BYTES` take 8 MiB."""


class FileEntry(Struct, frozen=True, array_like=True):
    """A file of a model.

    ``path`` is relative to the model root. ``digests`` contains the SHA-256 of each part, one after the other.
    """

    path: str
    size: Bytes
    digests: bytes

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.size // PART_BYTES)

    def part_size(self, part: int) -> Bytes:
        """Return the size of a part."""
        return min(PART_BYTES, self.size - part * PART_BYTES)

    def digest(self, part: int) -> bytes:
        """Return the SHA-256 of a part."""
        return self.digests[part * DIGEST_BYTES : (part + 1) * DIGEST_BYTES]


class FileList(Struct, frozen=True, array_like=True):
    """The files of a model, in order of their paths."""

    files: tuple[FileEntry, ...]

    @property
    def nbytes(self) -> Bytes:
        """The total size of the files."""
        return sum(file.size for file in self.files)


class ReadFileList(Struct, frozen=True, array_like=True, tag=80):
    """Request the encoded `FileList` of a content."""

    id: int
    content: str


class ReadPart(Struct, frozen=True, array_like=True, tag=81):
    """Request one part of a file. ``file`` is the index of the file in the list."""

    id: int
    content: str
    file: int
    part: int


class FilePart(Struct, frozen=True, array_like=True, tag=82):
    """The answer to a `ReadFileList` or a `ReadPart`. The payload contains the bytes.

    ``problem`` is the reason why there are no bytes, or an empty text.
    """

    id: int
    problem: str = ""


FileRequest: TypeAlias = ReadFileList | ReadPart
