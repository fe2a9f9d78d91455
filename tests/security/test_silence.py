"""Clockwork, and the libraries that it loads, contact no other machine and write nowhere but in Clockwork's cache."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from security.isolated import NOT_PERMITTED, RESOLVER

HERE = Path(__file__).parent

#: ONNX Runtime 1.32 with its telemetry on looks up its host 9.3 s after it was loaded, and again every 5.5 s.
SECONDS = 16.0

#: Two attempts that must be seen: a connection, and a name that the C library looks up.
ATTEMPTS = """
import socket
for attempt in (lambda: socket.create_connection(("198.51.100.7", 443), 1), lambda: socket.getaddrinfo("a.invalid", 1)):
    try:
        attempt()
    except OSError:
        pass
"""


@cache
def unshare() -> tuple[str, ...]:
    """What gives a command a network and mounts of its own; empty where that is not permitted."""
    for rights in ((), ("--map-root-user",)):
        command = ("unshare", *rights, "--net", "--mount")
        found = shutil.which("unshare") and shutil.which("ip")
        if found and not subprocess.run((*command, "true"), capture_output=True, check=False).returncode:
            return command
    return ()


def packets(report: Path, home: Path, *command: str) -> list[str]:
    """Where the command sends packets, other than to itself; its home is ``home``."""
    if not unshare():
        pytest.skip("needs unshare and ip, and the right to make a network namespace")
    home.mkdir()
    others = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_", "MPL"))}
    environment = {**others, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    whole = (*unshare(), sys.executable, str(HERE / "isolated.py"), str(report), *command)
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, check=False, timeout=200)
    if done.returncode == NOT_PERMITTED:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    said = json.loads(report.read_text())
    assert said["code"] == 0, done.stderr
    found: list[str] = said["packets"]
    return found


def test_an_attempt_to_reach_another_machine_is_seen(tmp_path: Path) -> None:
    found = packets(tmp_path / "report", tmp_path / "home", sys.executable, "-c", ATTEMPTS)
    assert "198.51.100.7 protocol 6 port 443" in found
    assert f"{RESOLVER} protocol 17 port 53" in found


@pytest.mark.timeout(240)
def test_ordinary_use_reaches_no_other_machine_and_writes_only_its_own_cache(tmp_path: Path) -> None:
    home, place = tmp_path / "home", tmp_path / "place"
    place.mkdir()
    use = (sys.executable, str(HERE / "ordinary_use.py"), str(place), str(SECONDS))
    assert packets(tmp_path / "report", home, *use) == []
    assert [it.name for it in home.iterdir()] == [".cache"]
    assert [it.name for it in (home / ".cache").iterdir()] == ["clockwork"]
