"""``clockwork load-test`` on a live server, and ``clockwork sim --from-state`` with the times that it measured."""

import json
from pathlib import Path

import pytest

from cli.processes import save_dense, serve
from clockwork.cli import run

SCENARIO = """
name = "live"
duration_s = 2
warmup_s = 0.5
slo_ms = 2000
[[models]]
name = "dense"
load_ms = 1
infer_ms = {"1" = 1}
[[workload]]
kind = "poisson"
rate = 50
[[workload]]
kind = "closed"
concurrency = 2
think_ms = 20
"""


def test_a_scenario_runs_live_and_then_simulated_with_the_measured_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario, live, simulated, state, records = (
        tmp_path / name for name in ("live.toml", "live.json", "sim.json", "state.json", "records.jsonl")
    )
    scenario.write_text(SCENARIO)
    with serve(str(save_dense(tmp_path / "dense.onnx"))) as process:
        assert run(["load-test", process.address(), str(scenario), "--json", str(live), "--records", str(records)]) == 0
        capsys.readouterr()
        assert run(["status", "--json", "--address", process.address()]) == 0
        state.write_text(capsys.readouterr().out)
        (tmp_path / "other.toml").write_text(SCENARIO.replace('"dense"', '"unknown"'))
        assert run(["load-test", process.address(), str(tmp_path / "other.toml")]) == 1
        assert "model 'unknown' is unknown; served models: dense" in capsys.readouterr().err
    rows = json.loads(live.read_text())["rows"]
    assert [row["stream"] for row in rows] == ["all", "1 poisson", "2 closed"]
    assert rows[0]["sent"] > 100
    first, *requests = (json.loads(line) for line in records.read_text().splitlines())
    assert (first["record"], first["run"]) == ("run", 1)
    counted = [record for record in requests if record["intended"] >= 500_000_000]
    assert len(counted) == rows[0]["sent"]
    assert sum(record["outcome"] == "in_time" for record in counted) == rows[0]["in_time"]
    assert all(record["intended"] <= record["sent"] <= record["answered"] for record in requests)
    assert rows[0]["sent"] == rows[0]["in_time"] + rows[0]["refused"] + rows[0]["admitted_missed"] + rows[0]["late"]
    assert rows[0]["in_time"] > 0.9 * rows[0]["sent"]
    prediction = json.loads(live.read_text())["details"][0]["prediction"]
    assert prediction["all"]["infer"]["duration"]["count"] > 0
    assert list(prediction["models"]) == ["dense"]
    assert run(["sim", str(scenario), "--from-state", str(state), "--json", str(simulated)]) == 0
    assert json.loads(simulated.read_text())["rows"][0]["in_time"] > 100
    assert run(["sim", "--from-state", str(state), "--devices", "2", "--load", "2x"]) == 0
    assert "from-state" in capsys.readouterr().out
