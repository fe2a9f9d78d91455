"""The text of the metrics, read with prometheus_client's parser: names, labels and values."""

from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from clockwork.controller.tally import Counts
from clockwork.messages.actions import Infer, InferInput
from clockwork.messages.counts import AGREED, DIFFERED, LATENCY_BOUNDS
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.requests import RequestTiming
from clockwork.messages.results import InferResult, Timing
from clockwork.messages.status import Status
from clockwork.metrics import family as rendering
from clockwork.metrics.family import END, Family, Kind, Piece, rendered
from clockwork.metrics.models import REASONS, SOURCES, outcome_of, pieces, reason_of, row
from clockwork.metrics.scrape import prefers_open_metrics
from clockwork.metrics.server import ERROR_BOUNDS, PredictionErrors
from clockwork.state import Predictions
from clockwork.units import MICROSECOND, SECOND, ms, us


def parsed(text: bytes) -> dict[str, Any]:
    """Return the metrics by name."""
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    """Return the value of the sample with that name and those labels; the parser appends ``_total`` to counters."""
    values: list[float] = [
        found.value
        for family in families.values()
        for found in family.samples
        if found.name in (name, f"{name}_total")
        and all(found.labels.get(key) == wanted for key, wanted in labels.items())
    ]
    (only,) = values
    return only


def busy() -> Counts:
    counted = Counts()
    done = InferResult(1, (), Timing(0, 1, us(10)), Timing(0, 1, us(200)), Timing(0, 1, us(3)))
    counted.acted(Infer(1, 0, "m", (InferInput(1, 2, ()), InferInput(2, 2, ()))), done)
    for total in (ms(1), ms(3)):
        counted.delivered(ms(2), RequestTiming(total, us(500), us(200), 4), done)
        counted.answered(1, Status.SUCCESS, total)
    for status in (Status.TIMEOUT, Status.SKIPPED_BY_CONTROLLER, Status.RUNTIME_ERROR, Status.INVALID_REQUEST):
        counted.answered(1, status, ms(9))
    counted.answered(1, Status.CANCELLED, 1)
    too_late = Status.CONTROLLER_COULD_NOT_START_IN_TIME
    counted.answered(1, too_late, 0, count=3, reason=RefusalReason.DEVICE_TOO_SLOW)
    counted.answered(1, too_late, 0, reason=RefusalReason.DEVICE_BUSY)
    for outcome in (AGREED, AGREED, DIFFERED):
        counted.checked(outcome)
    counted.pending, counted.kept_promises, counted.broken_promises, counted.cold_starts = 3, 2, 1, 1
    return counted


def joined(found: Iterable[Piece], *, open_metrics: bool = False) -> bytes:
    return b"".join(piece.encode(open_metrics) for piece in found)


def text_of(*names: str, histograms: bool = True) -> bytes:
    return joined(pieces([row(name, busy()) for name in names], histograms))


def test_tritons_metrics_have_tritons_meaning() -> None:
    found = parsed(text_of("m"))
    at = {"model": "m", "version": "1"}
    assert value(found, "nv_inference_request_success", **at) == 2
    failures = {reason: value(found, "nv_inference_request_failure", reason=reason, **at) for reason in REASONS}
    assert failures == {"REJECTED": 6, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}
    assert value(found, "nv_inference_count", **at) == 4
    assert value(found, "nv_inference_exec_count", **at) == 1
    assert value(found, "nv_inference_request_duration_us", **at) == 4000
    assert value(found, "nv_inference_queue_duration_us", **at) == 1000
    assert value(found, "nv_inference_compute_input_duration_us", **at) == 20
    assert value(found, "nv_inference_compute_infer_duration_us", **at) == 400
    assert value(found, "nv_inference_compute_output_duration_us", **at) == 6
    assert value(found, "nv_inference_pending_request_count", **at) == 3


def test_types_are_declared_and_tritons_counters_keep_their_names() -> None:
    text = text_of("m").decode()
    assert "# TYPE nv_inference_request_success counter\n" in text
    assert 'nv_inference_request_success{model="m",version="1"} 2.0\n' in text
    assert "# TYPE nv_inference_pending_request_count gauge\n" in text
    assert "# TYPE clockwork_requests_total counter\n" in text
    assert "# TYPE clockwork_request_duration_seconds histogram\n" in text
    assert text.count("# TYPE") == text.count("# HELP") == len(SOURCES) + 1


def test_requests_are_counted_by_outcome_and_reason() -> None:
    found = parsed(text_of("m"))
    outcomes = {
        (sample.labels["outcome"], sample.labels["reason"]): sample.value
        for sample in found["clockwork_requests"].samples
    }
    assert outcomes == {
        ("in_time", "SUCCESS"): 2,
        ("late", "TIMEOUT"): 1,
        ("refused", "SKIPPED_BY_CONTROLLER"): 1,
        ("refused", "CONTROLLER_COULD_NOT_START_IN_TIME"): 4,
        ("failed", "RUNTIME_ERROR"): 1,
        ("failed", "INVALID_REQUEST"): 1,
        ("cancelled", "CANCELLED"): 1,
    }
    assert value(found, "clockwork_promises_kept_total", model="m") == 2
    assert value(found, "clockwork_promises_broken_total", model="m") == 1


def test_refusals_with_the_same_status_are_counted_by_their_reason() -> None:
    found = parsed(text_of("m"))
    refusals = {sample.labels["reason"]: sample.value for sample in found["clockwork_refusals"].samples}
    expected = dict.fromkeys([reason.value for reason in RefusalReason], 0)
    assert refusals == expected | {"device_too_slow": 3, "device_busy": 1, "other": 1}


def test_open_metrics_has_the_same_samples_and_is_valid() -> None:
    found = list(pieces([row("m", busy())], True))
    text = joined(found, open_metrics=True) + END
    families = {family.name: family for family in open_metrics_families(text.decode())}  # type: ignore[no-untyped-call]
    assert families["nv_inference_request_success"].type == "unknown"
    assert families["clockwork_requests"].type == "counter"
    assert values(families) == values(parsed(joined(found)))


def values(families: dict[str, Any]) -> dict[tuple[Any, ...], float]:
    """Return samples without the suffix of counters, which the parser of the text format appends to Triton's."""
    return {
        (sample.name.removesuffix("_total"), *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "open_metrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("application/openmetrics-text; version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.1, text/plain", False),
        ("application/openmetrics-text;q=x", False),
        ("application/openmetrics-text;q=nan", False),
        (";;,=;q", False),
    ],
)
def test_a_client_gets_open_metrics_if_it_prefers_that(accept: str, open_metrics: bool) -> None:
    assert prefers_open_metrics(accept) == open_metrics


def test_batch_checks_are_counted_by_outcome() -> None:
    found = parsed(text_of("m"))
    outcomes = {sample.labels["outcome"]: sample.value for sample in found["clockwork_batch_checks"].samples}
    assert outcomes == {"agreed": 2, "differed": 1, "skipped": 0}


@pytest.mark.parametrize("status", [status.name for status in Status if status])
def test_every_status_has_a_reason_and_an_outcome(status: str) -> None:
    assert reason_of(status) in REASONS
    assert outcome_of(status) in ("late", "refused", "failed", "cancelled")
    assert (reason_of(status) == "CANCELED") == (outcome_of(status) == "cancelled")


def test_a_histogram_adds_up() -> None:
    found = parsed(text_of("m"))["clockwork_request_duration_seconds"].samples
    buckets = [(float(sample.labels["le"]), sample.value) for sample in found if sample.name.endswith("_bucket")]
    assert [bound for bound, _ in buckets] == [*(bound / SECOND for bound in LATENCY_BOUNDS), float("inf")]
    assert dict(buckets)[0.001] == 1
    assert dict(buckets)[0.005] == buckets[-1][1] == 2
    (total,) = [sample.value for sample in found if sample.name.endswith("_sum")]
    assert total == pytest.approx(0.004)


def test_histograms_are_left_out_if_switched_off_or_empty() -> None:
    assert b"duration_seconds" not in text_of("m", histograms=False)
    idle = joined(pieces([row("idle", Counts())], True))
    assert b'duration_seconds_bucket{model="idle"' not in idle
    assert b'nv_inference_request_success{model="idle",version="1"} 0.0\n' in idle


NASTY = 'a"b\\c\nd{}=,é'


def test_labels_are_escaped() -> None:
    found = parsed(text_of(NASTY))
    assert value(found, "nv_inference_request_success", model=NASTY) == 2


def test_pieces_are_small_and_a_metric_has_one_head() -> None:
    rows = [row(f"m{number}", busy()) for number in range(100)]
    texts = [piece.encode() for piece in pieces(rows, True)]
    assert max(text.count(b"\n") for text in texts) <= rendering.PIECE + len(LATENCY_BOUNDS) + 4
    found = parsed(b"".join(texts))
    assert len(found) == len(SOURCES) + 1
    assert len(found["clockwork_cold_starts"].samples) == 100


def test_a_metric_without_samples_still_has_its_head() -> None:
    assert joined(rendered(Family("a_total", "b\nc\\", Kind.COUNTER, ("d",)), [])) == (
        b"# HELP a_total b\\nc\\\\\n# TYPE a_total counter\n"
    )


def test_prediction_errors_of_devices_are_added_up() -> None:
    errors = PredictionErrors()
    for _ in range(2):
        predictions = Predictions()
        infer_errors = predictions.of("infer")
        infer_errors.start.right = 3
        infer_errors.duration.over.add(us(60))
        infer_errors.duration.under.add(ms(7))
        errors.add(predictions)
    found = parsed(joined(errors.pieces()))
    infer = {"action": "infer"}
    assert value(found, "clockwork_predictions_total", of="start", error="none", **infer) == 6
    assert value(found, "clockwork_predictions_total", of="duration", error="under", **infer) == 2
    name = "clockwork_prediction_error_seconds"
    over = {"of": "duration", "error": "over", **infer}
    assert value(found, f"{name}_sum", **over) == pytest.approx(2 * us(60) / SECOND)
    assert value(found, f"{name}_bucket", le="5e-05", **over) == 0
    assert value(found, f"{name}_bucket", le="0.0001", **over) == 2
    assert value(found, f"{name}_count", **over) == 2
    assert min(ERROR_BOUNDS) == 10 * MICROSECOND
