"""The command ``clockwork sim``."""

import json
from pathlib import Path

import pytest

from clockwork.cli import run, simulation
from clockwork.sim import swarm

SCENARIO = """
name = "small"
duration_s = 1
warmup_s = 0
[[models]]
name = "resnet50"
copies = 2
profile = "resnet50-v100"
[[workload]]
kind = "poisson"
rate = 100
[sweep]
load = [1, 2]
"""

ROW_KEYS = {
    "slo_ms",
    "load",
    "offered_rps",
    "goodput_rps",
    "sent",
    "in_time",
    "admitted_missed",
    "refused",
    "verdict_ms_p99",
}


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(SCENARIO)
    return tmp_path / "small.toml"


def test_sim_writes_a_table_json_records_and_plots(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, records, plots = tmp_path / "out/small.json", tmp_path / "records.jsonl", tmp_path / "plots"
    command = [
        "sim",
        str(scenario),
        "--seed",
        "3",
        "--json",
        str(out),
        "--records",
        str(records),
        "--plots",
        str(plots),
    ]
    assert run(command) == 0
    assert "small" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert [row["load"] for row in results["rows"]] == [1, 2]
    assert all(row.keys() >= ROW_KEYS for row in results["rows"])
    assert results["violations"] == []
    written = [json.loads(line) for line in records.read_text().splitlines()]
    assert {record["record"] for record in written} == {"run", "action", "request"}
    assert [(record["run"], record["load"]) for record in written if record["record"] == "run"] == [(1, 1), (2, 2)]
    for run_number, row in enumerate(results["rows"], 1):
        requests = [record for record in written if record["record"] == "request" and record["run"] == run_number]
        assert len(requests) == row["sent"]
        assert {(record["outcome"], record["status_name"]) for record in requests} == {("in_time", "SUCCESS")}
    drawn = {path.name for path in plots.iterdir()}
    assert drawn == {"small-goodput.png", "small-latency.png", "small-utilisation.png", "small-sweep.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())


def test_predictions_are_shown_written_and_drawn(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plots = tmp_path / "noisy.json", tmp_path / "plots"
    scenario.write_text(SCENARIO + '[noise]\nkind = "normal"\nshare = 0.05\n')
    assert run(["sim", str(scenario), "--details", "--json", str(out), "--plots", str(plots)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["SLO", "100", "ms,", "load", "2,", "devices", "1", "infer"] in [line[:8] for line in shown]
    prediction = json.loads(out.read_text())["details"][1]["prediction"]
    assert prediction.keys() == {"all", "devices", "models", "cdf"}
    infer = prediction["all"]["infer"]
    assert infer["duration"]["over"] > infer["duration"]["under"] > 0
    assert prediction["devices"] == {"w0/gpu0": prediction["all"]}
    assert prediction["models"].keys() == {"resnet50-1", "resnet50-2"}
    steps = prediction["cdf"]["infer"]["completion"]["over"]
    assert steps == sorted(steps)
    assert steps[-1][1] == 1.0
    assert (plots / "small-prediction.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_records(scenario: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(["sim", str(scenario), "--seed", "4", "--records", str(tmp_path / name)]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_cold_starts_wall_time_and_memory_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cold.toml").write_text(SCENARIO + "[devices]\npages = 7\n")
    assert run(["sim", str(tmp_path / "cold.toml"), "--details"]) == 0
    shown = capsys.readouterr().out
    assert "Cold starts, SLO 100 ms, load 1" in shown
    assert "s of wall time" in shown
    assert "MiB of memory at most" in shown


def test_the_swarm_runs_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--swarm", "--seed", "4", "--seeds", "2"]) == 0
    assert "2 seeds, starting at 4" in capsys.readouterr().out


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["goodput collapses"], 1)])
def test_the_swarm_of_overloaded_controllers_reports_a_collapse(
    problems: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(swarm, "run_overload", lambda seed: seeds.append(seed) or problems)  # type: ignore[func-returns-value]
    assert run(["sim", "--swarm", "--overload", "--seed", "4", "--seeds", "2"]) == code
    printed = capsys.readouterr()
    if code:
        assert seeds == [4]
        assert "goodput collapses" in printed.out
        assert "replay: clockwork sim --swarm --overload --seed 4" in printed.err
    else:
        assert seeds == [4, 5]
        assert printed.out == "2 seeds, starting at 4: no violation\n"


def test_options_change_the_scenario(scenario: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run(["sim", str(scenario), "--devices", "3", "--load", "2x", "--slo", "0.5x", "--json", str(out)]) == 0
    row = json.loads(out.read_text())["rows"][0]
    assert row["slo_ms"] == 50
    assert row["offered_rps"] == pytest.approx(200, rel=0.3)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "give a SCENARIO.toml, --from-state FILE, or --swarm"),
        (["FILE", "--load", "fast"], "invalid factor 'fast'"),
        (["FILE", "--scheduler", "unknown"], "scheduler 'unknown' is unknown"),
        (["FILE", "--trace", "x"], "write NAME=FILE"),
        (["FILE", "--profile", "unknown"], "unknown profile 'unknown'"),
        (["FILE", "--json", "/dev/null/x.json"], "cannot write /dev/null/x.json"),
        (["--swarm", "FILE"], "--swarm makes its own scenarios"),
        (["FILE", "--overload"], "--overload needs --swarm"),
        (["--swarm", "--overload", "--records", "/dev/null/x"], "--overload writes no records"),
        (["--from-state", "FILE"], "is not valid JSON"),
        (["BROKEN"], "is not valid TOML"),
    ],
)
def test_wrong_usage_prints_one_line(
    arguments: list[str], why: str, scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.toml").write_text("[[")
    files = {"FILE": str(scenario), "BROKEN": str(tmp_path / "broken.toml")}
    assert run(["sim", *(files.get(argument, argument) for argument in arguments)]) in (1, 2)
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


NEEDED = """
name = "needed"
duration_s = 2
warmup_s = 0
[[models]]
name = "m"
load_ms = 1
infer_ms = { "1" = 10 }
[[workload]]
kind = "fixed"
rate = 100
slo_ms = 400
"""


def test_sim_answers_how_many_devices_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "needed.toml").write_text(NEEDED)
    arguments = ["sim", str(tmp_path / "needed.toml"), "--slo", "50ms", "--load", "2x"]
    assert run([*arguments, "--devices", "1..4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(" all")]
    assert [row[1:4] for row in rows] == [["50", "2", str(devices)] for devices in (1, 2, 3, 4)]
    assert "2 devices suffice: 100% in time (SLO 50 ms, load 2x)" in lines
    assert run([*arguments[:-1], "5x", "--devices", "1,2", "--target", "95%"]) == 0
    last = capsys.readouterr().out
    assert "2 devices do not suffice: " in last
    assert "; the target is 95.00%" in last


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--devices=0..3", "invalid numbers '0..3'"),
        ("--devices=8..1", "invalid numbers '8..1'"),
        ("--devices=1..900000", "invalid numbers"),
        ("--slo=50parsecs", "invalid SLO '50parsecs'; examples: 50ms, 0.5x"),
        ("--target=120", "invalid percentage '120'"),
    ],
)
def test_wrong_numbers_are_refused_with_examples(
    option: str, why: str, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", str(scenario), option]) == 2
    assert why in capsys.readouterr().err


def test_sim_warns_when_no_request_is_in_time_and_says_why(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", str(scenario), "--slo", "1ms"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert warnings[0].startswith("warning: no request was in time (SLO 1 ms, load 1, devices 1): ")
    assert "most frequent reason" in warnings[0]
    assert "no device can meet this SLO" in warnings[0]
    assert run(["sim", str(scenario)]) == 0
    assert "warning" not in capsys.readouterr().out


def test_progress_is_printed_in_lines_if_stderr_is_no_terminal(
    scenario: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "REPORT_EVERY", 0)
    assert run(["sim", str(scenario)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "small 1/2: 50%" in lines
    assert lines[-1] == "small 2/2: 100%"
