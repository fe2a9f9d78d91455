"""The benchmark of compiled programs runs; its numbers are not checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtimes.torch import programs  # noqa: F401 - skips these tests without PyTorch

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_torch.py"


@pytest.mark.usefixtures("compiled_conv")
def test_eager_and_compiled_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "torch.json"
    command = [sys.executable, str(BENCHMARK), "--only", "mlp", "--seconds", "0.01", "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(out.read_text())["mlp"]
    assert list(found["infer"]) == ["1", "4", "16"]
    for row in found["infer"].values():
        assert row["eager"]["p50"] > 0
        assert row["compiled"]["p50"] > 0
        assert row["ratio"] > 0
    for word in ("eager", "compiled"):
        assert found[word]["load_ms"] > 0
