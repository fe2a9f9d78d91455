"""Large files are read in pieces."""

from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from clockwork.runtimes import reading
from clockwork.runtimes.reading import PIECE_BYTES, read_file, read_into


class Recorded(FileIO):
    """A file that records the sizes of its reads."""

    sizes: list[int]

    def readinto(self, buffer: Any) -> int:
        self.sizes.append(len(buffer))
        return super().readinto(buffer)


def test_no_read_is_larger_than_a_piece(tmp_path: Path) -> None:
    content = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"the end"
    (tmp_path / "file").write_bytes(content)
    into = bytearray(len(content))
    with Recorded(tmp_path / "file") as file:
        file.sizes = []
        assert read_into(file, memoryview(into)) == len(content)
    assert into == content
    assert file.sizes == [PIECE_BYTES, PIECE_BYTES, len(b"the end")]


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "file").write_bytes(content)
    assert read_file(tmp_path / "file") == content


def test_a_file_that_ends_early_gives_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    monkeypatch.setattr(reading, "read_into", lambda file, into: read_into(file, into[:3]))
    assert read_file(tmp_path / "file") == b"123"
    into = bytearray(9)
    with (tmp_path / "file").open("rb") as file:
        assert read_into(file, memoryview(into)) == 5
    assert into == b"12345" + bytes(4)
