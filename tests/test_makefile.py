"""The Makefile's targets that set up environments say what they do."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAKE = ("env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "--no-print-directory")
"""make as a person calls it, even if the tests themselves run under make."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def commands(target: str, tmp_path: Path) -> str:
    """Return the commands of a target for a clone in which nothing is set up."""
    made = [*MAKE, "--dry-run", "--always-make", f"VENV={tmp_path}/venv", f"TORCH={tmp_path}/torch", target]
    return subprocess.run(made, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", ["setup", "setup-torch", "test", "demo"])
def test_a_target_that_sets_up_says_so_and_shows_the_progress_of_pip(target: str, tmp_path: Path) -> None:
    lines = commands(target, tmp_path).splitlines()
    installs = [n for n, line in enumerate(lines) if " install " in line and "--require-hashes" in line]
    assert installs
    for number in installs:
        assert "--quiet" not in lines[number]
        assert any("Setting up" in line or "No CPU build" in line for line in lines[number - 1 : number])


def test_setup_torch_installs_the_locked_pytorch_and_ends_with_the_command_to_use(tmp_path: Path) -> None:
    made = commands("setup-torch", tmp_path)
    assert "requirements-torch.lock" in made
    assert "clockwork export --help" in made.splitlines()[-1]


def test_help_lists_every_target_with_a_description(tmp_path: Path) -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert phony is not None
    targets = phony[1].replace("\\\n", " ").split()
    shown = subprocess.run([*MAKE, "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in shown.splitlines()] == targets
