"""The GPU benchmark runs on a fake device; its numbers are not checked."""

import json
import subprocess
import sys
from pathlib import Path

from runtimes.torch import programs  # noqa: F401 - skips these tests without PyTorch

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_cuda.py"


def test_everything_is_measured_and_models_are_served(tmp_path: Path) -> None:
    out = tmp_path / "cuda.json"
    subprocess.run([sys.executable, str(BENCHMARK), "--smoke", "--json", str(out)], check=True, capture_output=True)
    found = json.loads(out.read_text())
    assert found["device"].startswith("none")
    for name in ("resnet_fp32", "resnet_fp16", "encoder_fp32", "encoder_fp16"):
        times = found[name]
        assert times["note"] == ""
        assert times["load_gb_s"] > 0
        assert times["plain_gb_s"] > 0
        assert list(times["infer"]) == ["1", "2", "4", "8", "16"]
        assert times["infer"]["1"]["device"]["runs"] == 5
        assert times["infer_while_loading"]["host"]["p50"] > 0
    served = found["served"]
    assert served["models"] == 10 * served["pages"]
    assert served["goodput_per_s"] > 0
    assert served["failed"] == 0
    assert served["loads"] > served["pages"]
    assert served["free_mb_after"] == served["free_mb_before"]
