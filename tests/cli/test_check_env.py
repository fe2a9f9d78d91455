"""``check-env``: what people and programs see of it."""

import json

import pytest

from clockwork.cli import run
from clockwork.cli.check_env import describe, exit_code
from clockwork.cli.output import show
from clockwork.environment import measurement
from clockwork.environment.facts import Environment, Host, Measured
from clockwork.environment.findings import NOT_TOLD, Finding, Level

FINE = Finding("clock", Level.OK, "tsc")
SILENT = Finding("boost", Level.NOTE, NOT_TOLD, "cannot be judged")
WARNED = Finding("swap", Level.WARNING, "in use", "slow loads", "swapoff -a")
BROKEN = Finding("steal", Level.BAD, "20 %", "late", "another machine")


@pytest.mark.parametrize(
    ("findings", "usual", "strict"),
    [((), 0, 0), ((FINE, SILENT), 0, 0), ((WARNED, FINE), 0, 1), ((FINE, BROKEN, WARNED), 1, 1)],
)
def test_the_exit_code_is_1_if_something_is_bad(findings: tuple[Finding, ...], usual: int, strict: int) -> None:
    assert exit_code(findings, strict=False) == usual
    assert exit_code(findings, strict=True) == strict


def test_people_see_a_line_for_each_check_and_then_the_worst_first(capsys: pytest.CaptureFixture[str]) -> None:
    show(*describe((FINE, SILENT, WARNED, BROKEN, FINE)))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "check level found"
    assert lines[2:7] == [
        "clock ok tsc",
        "boost note not told",
        "swap warning in use",
        "steal bad 20 %",
        "clock ok tsc",
    ]
    assert lines[8:] == [
        "steal (bad): late",
        "mend: another machine",
        "swap (warning): slow loads",
        "mend: swapoff -a",
        "1 bad, 1 warning, 1 note, 2 ok",
    ]


def test_this_host_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["check-env", "--seconds", "0.2", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == (said["worst"] == "bad")
    assert len(said["findings"]) == 17
    for finding in said["findings"]:
        assert list(finding) == ["name", "level", "found", "cost", "mend"]
        assert finding["level"] in list(Level)
        assert finding["found"]
        assert finding["cost"] or finding["level"] == "ok"
    assert said["environment"]["measured"]["duration"] > 0
    assert said["environment"]["threads_per_device"] == 1


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_a_host_that_tells_nothing_is_no_failure(
    json_option: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, float]] = []

    def nothing(devices: int, threads: int, seconds: float) -> Environment:
        asked.append((devices, threads, seconds))
        return Environment(devices=((),), threads_per_device=1, host=Host(), measured=Measured(duration=1))

    monkeypatch.setattr(measurement, "examine", nothing)
    assert run(["check-env", "--strict", "--devices=3", "--threads-per-device=2", "--seconds=7", *json_option]) == 0
    assert asked == [(3, 2, 7.0)]
    said = capsys.readouterr()
    assert said.out.count(NOT_TOLD) == 17
    assert not said.err


@pytest.mark.parametrize("option", ["--seconds=0", "--seconds=nan", "--seconds=601", "--devices=0", "--devices=65"])
def test_senseless_options_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-env", option]) == 2
    assert f"Invalid value for '{option.partition('=')[0]}'" in capsys.readouterr().err
