"""The checks of batches and the wanted devices in the output of ``clockwork status``."""

import pytest

from builders import model_info, profile
from clockwork.cli.output import show
from clockwork.cli.status_report import describe_server
from clockwork.messages.counts import ModelCounts
from clockwork.messages.requests import GPUStatus, ModelStatus, Progress, ServerStatus, WorkerStatus
from clockwork.messages.results import GPUInfo
from clockwork.messages.scaling import KindScaling


def shown(capsys: pytest.CaptureFixture[str], *models: ModelStatus) -> list[str]:
    show(*describe_server(ServerStatus("0.1.0", "fifo", "serving", Progress(), 0, (), models)))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_checks_of_batches_are_shown_with_the_reason_for_an_unbatched_model(capsys: pytest.CaptureFixture[str]) -> None:
    differs = ModelStatus(
        model_info("a"), {}, counts=ModelCounts(checks={"differed": 1, "skipped": 3}), unbatched="why"
    )
    agrees = ModelStatus(model_info("b"), {"gpu": profile()}, counts=ModelCounts(checks={"agreed": 4}))
    lines = shown(capsys, differs, agrees, ModelStatus(model_info("c"), {}))
    assert "Checks of batches" in lines
    assert "model agreed differed skipped" in lines
    assert "a 0 1 3" in lines
    assert "b 4 0 0" in lines
    assert "a is not batched: why" in lines
    assert not [line for line in lines if line.startswith("c 0 0 0") and len(line.split()) == 4]


def test_without_checks_of_batches_their_table_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Checks of batches" not in shown(capsys, ModelStatus(model_info("a"), {}))


def test_the_wanted_devices_are_shown_if_the_fleet_has_another_number(capsys: pytest.CaptureFixture[str]) -> None:
    worker = WorkerStatus("w0", True, 1, (GPUStatus(GPUInfo(0, "fast", 64), 0, 0),))
    scaling = (KindScaling("fast", 1, 3, "the work is high"), KindScaling("slow", 2, 2, "the work is low"))
    server = ServerStatus("0.1.0", "fifo", "serving", Progress(), 0, (worker,), (), scaling=scaling)
    show(*describe_server(server))
    text = " ".join(capsys.readouterr().out.split())
    assert "3 wanted of fast, 1 in service: the work is high." in text
    assert "slow" not in text
