from pathlib import Path

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.host.cache_size import available_bytes, default_cache_bytes
from clockwork.host.worker import WorkerConfig
from clockwork.units import GIB, MIB


def files(where: Path, **contents: str) -> Path:
    for name, text in contents.items():
        (where / name.replace("_", ".")).write_text(text)
    return where


def test_a_cache_is_a_share_of_the_available_memory_up_to_a_limit() -> None:
    assert default_cache_bytes(64 * GIB, 1) == 4 * GIB
    assert default_cache_bytes(8 * GIB, 1) == 2 * GIB
    assert default_cache_bytes(8 * GIB, 4) == GIB // 2


def test_the_limit_of_a_container_counts_if_it_is_lower(tmp_path: Path) -> None:
    meminfo = files(tmp_path, meminfo="MemTotal: 9 kB\nMemAvailable:   8388608 kB\n") / "meminfo"
    assert available_bytes(meminfo, tmp_path) == 8 * GIB
    files(tmp_path, memory_max="max\n", memory_current="5\n")
    assert available_bytes(meminfo, tmp_path) == 8 * GIB
    files(tmp_path, memory_max=f"{3 * GIB}\n", memory_current=f"{GIB}\n")
    assert available_bytes(meminfo, tmp_path) == 2 * GIB


def test_a_host_that_reports_no_memory_gets_the_default(tmp_path: Path) -> None:
    assert default_cache_bytes(available_bytes(tmp_path / "none", tmp_path), 1) == 4 * GIB


def test_a_cache_has_as_many_pages_as_fit(tmp_path: Path) -> None:
    assert WorkerConfig(tmp_path, cache_bytes=100 * MIB).pages() == 6
    assert WorkerConfig(tmp_path).pages() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cache_bytes": 15 * MIB}, "no room for a page"),
        ({"devices": 0}, "0 devices of 1 threads"),
        ({"devices": 65}, "1 to 64 devices"),
        ({"threads_per_device": 0}, "1 devices of 0 threads"),
        ({"page_size": 0}, "at least 1 thread and 1 byte"),
    ],
)
def test_an_impossible_configuration_is_refused(tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        WorkerConfig(tmp_path, **wrong).pages()  # type: ignore[arg-type]
