"""``check-env``: its table, its JSON and its exit codes."""

import json

import pytest

from clockwork.cli import run
from clockwork.cli.check import describe_findings, exit_code
from clockwork.cli.output import show
from clockwork.environment import measurement
from clockwork.environment.facts import Environment, Host, Measured
from clockwork.environment.findings import UNKNOWN
from clockwork.messages.findings import Finding, Level

FINE = Finding("clock", Level.OK, "tsc")
SILENT = Finding("boost", Level.NOTE, UNKNOWN, "cannot be checked")
WARNED = Finding("swap", Level.WARNING, "in use", "slow loads", "swapoff -a")
BROKEN = Finding("steal", Level.BAD, "20 %", "late", "another machine")


@pytest.mark.parametrize(
    ("findings", "usual", "strict"),
    [((), 0, 0), ((FINE, SILENT), 0, 0), ((WARNED, FINE), 0, 1), ((FINE, BROKEN, WARNED), 1, 1)],
)
def test_the_exit_code_is_1_if_something_is_bad(findings: tuple[Finding, ...], usual: int, strict: int) -> None:
    assert exit_code(findings, strict=False) == usual
    assert exit_code(findings, strict=True) == strict


def test_the_table_is_followed_by_costs_and_fixes_from_the_worst_on(capsys: pytest.CaptureFixture[str]) -> None:
    show(*describe_findings((FINE, SILENT, WARNED, BROKEN, FINE)))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "check level found"
    assert lines[2:7] == [
        "clock ok tsc",
        "boost note unknown",
        "swap warning in use",
        "steal bad 20 %",
        "clock ok tsc",
    ]
    assert lines[8:] == [
        "steal (bad): late",
        "fix: another machine",
        "swap (warning): slow loads",
        "fix: swapoff -a",
        "1 bad, 1 warning, 1 note, 2 ok",
    ]


def test_this_host_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["check-env", "--seconds", "0.2", "--json"])
    output = json.loads(capsys.readouterr().out)
    assert code == (output["worst"] == "bad")
    assert len(output["findings"]) == 17
    for finding in output["findings"]:
        assert list(finding) == ["name", "level", "found", "cost", "fix"]
        assert finding["level"] in list(Level)
        assert finding["found"]
        assert finding["cost"] or finding["level"] == "ok"
    assert output["environment"]["measured"]["duration"] > 0
    assert output["environment"]["threads_per_device"] == 1


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_a_host_that_hides_everything_is_not_a_failure(
    json_option: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int, float]] = []

    def nothing(devices: int, threads: int, seconds: float) -> Environment:
        calls.append((devices, threads, seconds))
        return Environment(devices=((),), threads_per_device=1, host=Host(), measured=Measured(duration=1))

    monkeypatch.setattr(measurement, "examine", nothing)
    assert run(["check-env", "--strict", "--devices=3", "--threads-per-device=2", "--seconds=7", *json_option]) == 0
    assert calls == [(3, 2, 7.0)]
    output = capsys.readouterr()
    assert output.out.count(UNKNOWN) == 17
    assert not output.err


@pytest.mark.parametrize("option", ["--seconds=0", "--seconds=nan", "--seconds=601", "--devices=0", "--devices=65"])
def test_options_out_of_range_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-env", option]) == 2
    assert f"Invalid value for '{option.partition('=')[0]}'" in capsys.readouterr().err
