"""The wheel, installed into a clean environment, serves a model, and its types satisfy a strict type checker.

The environment has the wheel and, behind it, the packages of the test environment: nothing is downloaded, and Clockwork
itself is not taken from the checkout.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_graphs

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.timeout(300)  # the first test builds the wheel, the last one checks types without a cache


def run(command: list[str | Path], directory: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` directory of the environment."""
    directory = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "tools/dist.py", directory], ROOT)
    (wheel,) = directory.glob("*.whl")
    target = directory / "environment"
    venv.create(target, with_pip=False, symlinks=True)
    python = target / "bin" / "python"
    (packages,) = target.glob("lib/python*/site-packages")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--python", python]
    run([*pip, "install", "--no-index", "--no-deps", wheel], directory, environment())
    (packages / "test-environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return target / "bin"


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@contextmanager
def server(installed: Path, directory: Path) -> Iterator[str]:
    """Serve ``dense.onnx`` with the installed command; yields the address."""
    onnx.save(onnx_graphs.dense(), directory / "dense.onnx")
    arguments = ["--listen=127.0.0.1:0", "--http=none", "--profile-seconds=0.01", "--max-batch=1", "--no-profile-cache"]
    process = subprocess.Popen(
        [installed / "clockwork", "serve", "dense.onnx", *arguments],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"serving 1 models? on (\S+)$", line):
                yield found[1]
                break
        else:
            pytest.fail("the server ended before it served")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_installed_package_is_the_one_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import clockwork; print(clockwork.__file__)"
    printed = run([installed / "python", "-c", code], tmp_path, environment())
    assert Path(printed.strip()).is_relative_to(installed.parent)


def test_the_installed_package_contains_the_files_of_the_dashboard(installed: Path, tmp_path: Path) -> None:
    code = "from clockwork.dashboard.assets import assets; print(*sorted(assets()))"
    printed = run([installed / "python", "-c", code], tmp_path, environment())
    assert printed.split() == sorted(path.name for path in (ROOT / "src/clockwork/dashboard/static").iterdir())


def test_the_installed_command_serves_a_model(installed: Path, tmp_path: Path) -> None:
    assert re.fullmatch(
        r"clockwork \d+\.\d+\.\d+\S*\n", run([installed / "clockwork", "--version"], tmp_path, environment())
    )
    np.save(tmp_path / "x.npy", np.zeros((1, 32), np.float32))
    with server(installed, tmp_path) as address:
        command: list[str | Path] = [
            installed / "clockwork",
            "infer",
            "dense",
            "--input",
            "x.npy",
            "--address",
            address,
        ]
        assert "y" in run([*command, "--slo", "20s"], tmp_path, environment())


def test_the_examples_satisfy_a_strict_type_checker_with_the_installed_package(installed: Path, tmp_path: Path) -> None:
    for path in (ROOT / "examples").glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-magika.*,tritonclient.*,uvloop.*]\nignore_missing_imports = True\n"
    )
    command: list[str | Path] = [sys.executable, "-m", "mypy", "--python-executable", installed / "python"]
    run([*command, *sorted(path.name for path in tmp_path.glob("*.py"))], tmp_path, environment())
