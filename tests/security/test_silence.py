"""Clockwork and the libraries that it loads contact no other machine, and write only to Clockwork's cache."""

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

#: With telemetry on, ONNX Runtime 1.32 looks up its host 9.3 s after it was loaded, and then every 5.5 s.
SECONDS = 16.0

#: Two attempts that must be recorded: a connection, and a name looked up by the C library.
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
    """Return the prefix that runs a command with separate network and mount namespaces; empty if not permitted."""
    for rights in ((), ("--map-root-user",)):
        command = ("unshare", *rights, "--net", "--mount")
        found = shutil.which("unshare") and shutil.which("ip")
        if found and not subprocess.run((*command, "true"), capture_output=True, check=False).returncode:
            return command
    return ()


def packets(report: Path, home: Path, *command: str) -> list[str]:
    """Return the destinations of packets from the command, other than loopback; its home directory is ``home``."""
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
    result = json.loads(report.read_text())
    assert result["code"] == 0, done.stderr
    found: list[str] = result["packets"]
    return found


def test_an_attempt_to_reach_another_machine_is_recorded(tmp_path: Path) -> None:
    found = packets(tmp_path / "report", tmp_path / "home", sys.executable, "-c", ATTEMPTS)
    assert "198.51.100.7 protocol 6 port 443" in found
    assert f"{RESOLVER} protocol 17 port 53" in found


@pytest.mark.timeout(240)
def test_ordinary_use_reaches_no_other_machine_and_writes_only_its_own_cache(tmp_path: Path) -> None:
    home, place = tmp_path / "home", tmp_path / "place"
    place.mkdir()
    use = (sys.executable, str(HERE / "ordinary_use.py"), str(place), str(SECONDS))
    assert packets(tmp_path / "report", home, *use) == []
    assert [file.name for file in home.iterdir()] == [".cache"]
    assert [file.name for file in (home / ".cache").iterdir()] == ["clockwork"]
