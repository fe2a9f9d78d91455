"""Runs the helm binary. `make test-kubernetes` installs one and names it in $HELM."""

import os
import shutil
import subprocess

import pytest

from manifests.documents import CHART, Manifest, documents

HELM = os.environ.get("HELM") or shutil.which("helm")

needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed; make test-kubernetes installs it")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60, check=False)


def sets(values: dict[str, str]) -> list[str]:
    """Return the options for values such as ``{"keda__enabled": "true"}``."""
    return [f"--set={name.replace('__', '.')}={value}" for name, value in values.items()]


def template(release: str = "clockwork", **values: str) -> list[Manifest]:
    """Render the chart with values such as ``keda__enabled="true"``."""
    done = helm("template", release, str(CHART), *sets(values))
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def refusal(release: str = "clockwork", **values: str) -> str:
    """Return the error for values that the chart refuses."""
    done = helm("template", release, str(CHART), *sets(values))
    assert done.returncode != 0
    return done.stderr
