"""The Python of docs/ray.md runs, and so do the commands ``clockwork ray``."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clockwork import zoo
from clockwork.cli import run
from ray_cluster.fleets import PATIENCE, eventually

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ray.md"

pytestmark = pytest.mark.timeout(300)

ON_THE_CLUSTER = ("--http-port=0", "--port=0", "--worker-port=0", "--controller-label=role=control")
QUICK = [f"--controller-option={it}" for it in ("--profile-seconds=0.01", "--max-batch=2", "--slo=20s")]


def blocks() -> list[str]:
    """Return the blocks of Python of the page: for a client, and for a fleet."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_commands_start_scale_drain_and_stop_a_fleet_that_serves_real_networks_to_tritonclient(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.build("squeezenet", tmp_path)
    start = ["ray", "start", "squeezenet.onnx", f"--model-root={tmp_path}", "--worker-label=role=work"]
    assert run([*start, *ON_THE_CLUSTER, *QUICK]) == 0
    try:
        shown = capsys.readouterr().out
        found = re.search(r"^clockwork serves HTTP on (\S+)$", shown, re.MULTILINE)
        assert found
        assert re.search(r"^ *clockwork:worker-1 +ready ", shown, re.MULTILINE)
        client = blocks()[0].replace("127.0.0.1:8000", found[1])
        done = subprocess.run(
            [sys.executable, "-c", client], capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        assert 0 <= int(done.stdout) < 1000
        assert run(["ray", "scale", "2"]) == 0
        assert re.search(r"^ *clockwork:worker-2 +ready ", capsys.readouterr().out, re.MULTILINE)
        assert run(["ray", "status", "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert status["ready"]
        victim = status["workers"][0]
        assert run(["ray", "drain", victim["node_id"]]) == 0
        assert capsys.readouterr().out == f"{victim['name']}\n"
        eventually("the fleet is ready", lambda: run(["ray", "status"]) == 0)
    finally:
        assert run(["ray", "stop"]) == 0
    assert run(["ray", "status"]) == 1
    assert "no fleet with the name clockwork runs on this cluster" in capsys.readouterr().err


def test_the_python_of_the_page_runs(cluster: Any, tmp_path: Path) -> None:
    zoo.build("squeezenet", tmp_path)
    program = blocks()[1].replace("MODELS", repr(str(tmp_path)))
    ports = "ports={'clients': 0, 'workers': 0, 'http': 0}, controller_options=('--profile-seconds=0.01',), "
    exec(program.replace("workers=1, ", f"workers=1, {ports}"), {})
