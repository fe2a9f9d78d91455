"""The commands of docs/changing-models.md work in their order, against a real server."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cli.processes import serve
from clockwork import zoo
from clockwork.cli.remote import is_version
from clockwork.messages.requests import ModelSummary

PAGE = Path(__file__).resolve().parents[2] / "docs" / "changing-models.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page_work_in_their_order(tmp_path: Path) -> None:
    built = zoo.build("mlp", tmp_path)
    (tmp_path / "repo" / "net" / "1").mkdir(parents=True)
    shutil.copy(built, tmp_path / "repo" / "net" / "1" / "model.onnx")
    shutil.copy(built, tmp_path / "new.onnx")
    start, *blocks = BLOCK.findall(PAGE.read_text())
    arguments = start.split()[2:]
    arguments[arguments.index("repo")] = str(tmp_path / "repo")
    with serve(*arguments, "--http=none") as process:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CLOCKWORK_ADDRESS": process.address(),
        }
        for block in blocks:
            done = subprocess.run(
                ["bash"],
                input=f"set -euo pipefail\n{block}",
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_infer_chooses_a_version_by_its_number_or_label_or_the_default() -> None:
    first = ModelSummary("net", (), (), True, 1, 0, "1", default=True, labels=("stable",))
    second = ModelSummary("net", (), (), True, 1, 0, "2", default=False)
    asked = ("", "1", "2", "stable")
    chosen = {name: [each.version for each in (first, second) if is_version(each, name)] for name in asked}
    assert chosen == {"": ["1"], "1": ["1"], "2": ["2"], "stable": ["1"]}
