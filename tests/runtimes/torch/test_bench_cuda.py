"""The benchmark of GPUs does what it says, on a device that is none: its program, not its numbers."""

import json
import subprocess
import sys
from pathlib import Path

from runtimes.torch import programs  # noqa: F401 - skips these tests where there is no PyTorch

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_cuda.py"


def test_everything_is_measured_and_models_are_served(tmp_path: Path) -> None:
    out = tmp_path / "cuda.json"
    subprocess.run([sys.executable, str(BENCHMARK), "--smoke", "--json", str(out)], check=True, capture_output=True)
    found = json.loads(out.read_text())
    assert found["device"].startswith("none")
    for name in ("resnet_fp32", "resnet_fp16", "encoder_fp32", "encoder_fp16"):
        its = found[name]
        assert its["note"] == ""
        assert its["load_gb_s"] > 0
        assert its["plain_gb_s"] > 0
        assert list(its["infer"]) == ["1", "2", "4", "8", "16"]
        assert its["infer"]["1"]["device"]["runs"] == 5
        assert its["infer_while_loading"]["host"]["p50"] > 0
    served = found["served"]
    assert served["models"] == 10 * served["pages"]
    assert served["goodput_per_s"] > 0
    assert served["failed"] == 0
    assert served["loads"] > served["pages"]
    assert served["free_mb_after"] == served["free_mb_before"]
