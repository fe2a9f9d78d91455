"""The tables of ``clockwork status``, ``sim`` and ``load-test`` at 80 and 120 columns, compared with kept screens.

After an intended change, write the screens anew: ``WRITE_SCREENS=1 pytest tests/cli/test_screens.py``.
"""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from builders import model_info, profile
from clockwork.cli.output import fold_copies, show
from clockwork.cli.results import show_results
from clockwork.cli.status_report import describe_server
from clockwork.cli.top_report import Reading, screen, top_of
from clockwork.messages.counts import DeviceCounts, RecentCounts
from clockwork.messages.findings import Finding, Level
from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.requests import GPUStatus, ModelStatus, Progress, ServerStatus, VersionStatus, WorkerStatus
from clockwork.messages.results import GPUInfo
from clockwork.messages.timeline import Timeline, TimelineAction
from clockwork.units import SECOND, ms

SCREENS = Path(__file__).with_name("screens")
WIDTHS = (80, 120)
KIND = "Intel(R) Xeon(R) Platinum 8480+, 1 core"


def check_screen(name: str, width: int, text: str) -> None:
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    path = SCREENS / f"{name}-{width}.txt"
    if os.environ.get("WRITE_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    assert lines == path.read_text().splitlines()


def recent(seconds: int, in_time: int, late: int) -> RecentCounts:
    if not in_time:
        return RecentCounts(seconds * SECOND)
    refused = in_time // 7
    rate = (in_time + late + refused) / seconds
    return RecentCounts(seconds * SECOND, rate, in_time, late, refused, 0, 0, late, ms(12.3), ms(98.7), ms(50), ms(100))


def model(name: str, digest: str, *, in_time: int = 0, late: int = 0, kind: str = KIND) -> ModelStatus:
    return ModelStatus(
        model_info(name, digest=digest, pages=6),
        {kind: profile()},
        last_10_s=recent(10, in_time // 30, late),
        last_5_min=recent(300, in_time, late),
    )


def server(models: list[ModelStatus], devices: int = 2) -> ServerStatus:
    worker = WorkerStatus(
        "local", True, 16 << 20, tuple(GPUStatus(GPUInfo(n, KIND, 64, ("a",)), 6, 1) for n in range(devices))
    )
    errors = ErrorSummary(1000, 900, ms(1), ms(2), ms(3), 100, ms(1), ms(2), ms(3))
    predictions = {"infer": PredictionSummary(errors, errors, errors, 905, 0)}
    return ServerStatus(
        "0.1.0", "clockwork", "serving", Progress(), 3, (worker,), tuple(models), predictions=predictions, ready=True
    )


def few_models() -> list[ModelStatus]:
    copies = [model(f"resnet50-{n}", "r", in_time=140 * n) for n in range(1, 16)]
    return [*copies, model("sentence-embeddings-multilingual", "s", in_time=12_345_678, late=3), model("mlp", "m")]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("errors", [False, True])
def test_status_keeps_names_and_fits_on_the_screen(
    width: int, errors: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show(*describe_server(server(few_models()), height=40, errors=errors))
    shown = capsys.readouterr().out
    assert "resnet50-1..15" in shown
    assert "sentence-embeddings-multilingual" in shown
    check_screen("status-errors" if errors else "status", width, shown)


def several_versions() -> ServerStatus:
    """Return a server with two versions of a model in service, a failed version, and errors of predictions."""
    errors = ErrorSummary(1000, 900, ms(1), ms(2), ms(3), 100, ms(1), ms(2), ms(3))
    stopped = replace(profile(), stopped="larger ones are slow")
    models = []
    for version in ("1", "2"):
        status = model("resnet50", f"r{version}", in_time=500 * int(version))
        info = replace(status.info, version=version)
        summary = {"infer": PredictionSummary(errors, errors, errors, 900 + int(version), 0)}
        changes = {"default": version == "1", "labels": () if version == "1" else ("canary",), "predictions": summary}
        models.append(replace(status, info=info, profiles={KIND: stopped}, **changes))
    models.append(replace(model("mlp", "m"), unbatched="its outputs differ in batches", default=False))
    failed = VersionStatus("resnet50", "3", "UNAVAILABLE", "worker local: the file is empty")
    return replace(server(models), versions=(failed,))


@pytest.mark.parametrize("width", WIDTHS)
def test_status_names_the_version_wherever_several_versions_are_served(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show(*describe_server(several_versions(), height=60, by_model=True))
    shown = capsys.readouterr().out
    assert "resnet50:2" in shown
    assert "mlp:1 is not batched" in shown
    check_screen("status-versions", width, shown)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [24, 50])
def test_status_of_2100_models_and_100_devices_is_one_screen(
    width: int, height: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    many = [model(f"model{n:04d}", f"d{n}", in_time=n) for n in range(2_100)]
    show(*describe_server(server(many, devices=100), height=height))
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= max(height, 35)
    assert "model2099" in shown, "the model with the most requests comes first"
    check_screen(f"status-many-{height}", width, shown)


def test_status_all_shows_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    show(*describe_server(server(few_models())))
    assert all(f" resnet50-{n} " in capsys_text for capsys_text in [capsys.readouterr().out] for n in range(1, 16))


def readings(models: list[ModelStatus], devices: int = 2) -> tuple[Reading, Reading]:
    """Return two readings of a server. Between the readings, the devices execute batches for 0.9 s of 1 s."""
    planned = TimelineAction(0, 0, "local/gpu0", "infer", "mlp", count=3, late=1)
    first = replace(server(models, devices), serving_ns=SECOND)
    (worker,) = first.workers
    busy = tuple(replace(gpu, counts=DeviceCounts(250, 9 * SECOND // 10, 1, ms(20))) for gpu in worker.gpus)
    second = replace(first, serving_ns=2 * SECOND, workers=(replace(worker, gpus=busy),))
    return Reading(first, None), Reading(second, Timeline(0, at_risk=1, upcoming=(planned,)))


@pytest.mark.parametrize("width", WIDTHS)
def test_top_shows_recent_requests_and_the_work_of_devices(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    before, reading = readings(few_models())
    show(*screen(reading, top_of(reading, before, folded=True), sort="rate", window="10s"))
    shown = capsys.readouterr().out
    assert "90%" in shown, "the devices were busy for 0.9 s of 1 s"
    assert "1 request at risk" in shown
    check_screen("top", width, shown)


@pytest.mark.parametrize("width", WIDTHS)
def test_status_and_top_show_what_disturbs_the_workers(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    before, reading = readings(few_models())
    (worker,) = reading.server.workers
    findings = (
        Finding("cpu quota", Level.BAD, "1.5 cores", "the worker is stopped", "raise the limit"),
        Finding("swap", Level.WARNING, "12 MiB of 2 GiB in use"),
        Finding("isolation", Level.NOTE, "none"),
    )
    found = replace(reading.server, workers=(replace(worker, findings=findings),))
    show(*describe_server(found, height=40))
    shown = capsys.readouterr().out
    assert "worker local may be disturbed by cpu quota (bad): 1.5 cores" in shown
    assert "isolation" not in shown
    show(*describe_server(found))
    assert "disturbed by isolation (note): none" in capsys.readouterr().out
    top = top_of(replace(reading, server=found), before, folded=True)
    assert top.findings == {"local": findings}
    show(*screen(reading, top, sort="rate", window="10s", height=24))
    shown = capsys.readouterr().out
    assert "disturbed    local: 1 bad, 1 warning (clockwork status shows them)" in shown
    assert len(shown.splitlines()) <= 24


@pytest.mark.parametrize("width", WIDTHS)
def test_top_of_2100_models_and_100_devices_is_one_screen(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    before, reading = readings([model(f"model{n:04d}", f"d{n}", in_time=n) for n in range(2_100)], 100)
    show(*screen(reading, top_of(reading, before, folded=True), sort="rate", window="5min", height=38))
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 38
    assert "model2099" in shown, "the model with the most requests comes first"
    check_screen("top-many", width, shown)


def row(stream: str, load: float, **changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "slo_ms": 100.0,
        "load": load,
        "stream": stream,
        "offered_rps": 1234.567 * load,
        "goodput_rps": 912.3,
        "in_time_share": 0.9987654,
        "sent": 1000,
        "in_time": 990,
        "admitted_missed": 0,
        "refused": 10,
        "late": 0,
        "failed": 0,
        "cold_starts": 0,
        "batch_size_mean": 6.54,
        "latency_ms_p50": 63.712,
        "latency_ms_p99": 99.312,
        "latency_ms_p99.9": 99.9,
        "verdict_ms_p99": 0.213,
        "utilisation": 0.9876,
        "requests_per_wall_s": 51234,
        "wall_s": 1.0,
    }
    return values | changes


@pytest.mark.parametrize("width", WIDTHS)
def test_results_of_a_sweep_fit_on_the_screen(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [row(stream, load) for load in (0.5, 1.0, 2.0) for stream in ("all", "1 poisson", "2 closed")]
    results = {"name": "overload", "seed": 1, "scheduler": "clockwork", "memory_mib": 99.0, "rows": rows, "details": []}
    show_results(results)
    check_screen("results", width, capsys.readouterr().out)


def test_copies_with_gaps_are_counted_and_other_names_are_kept() -> None:
    names = [("a-1", "x"), ("a-3", "x"), ("a-2", "y"), ("b", "x"), ("c-01", "x"), ("c-2", "x"), ("-1", "x")]
    assert fold_copies(names) == [
        ("a-1..3 (2 copies)", ["a-1", "a-3"]),
        ("a-2", ["a-2"]),
        ("b", ["b"]),
        ("c-01", ["c-01"]),
        ("c-2", ["c-2"]),
        ("-1", ["-1"]),
    ]
