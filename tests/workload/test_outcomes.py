"""Classification of outcomes."""

from clockwork.messages.status import Status
from clockwork.units import SECOND, ms
from clockwork.workload.outcomes import Outcome, Outcomes


def outcome(status: Status = Status.SUCCESS, *, at: int = 0, total: int = ms(10), admitted: bool = False) -> Outcome:
    return Outcome(at, at + total, ms(100), status, total, admitted, batch_size=2, message="took 12 ms")


def test_each_request_has_one_outcome() -> None:
    outcomes = Outcomes(warmup=0, duration=10 * SECOND, bucket=SECOND)
    for it in (
        outcome(),
        outcome(total=ms(101)),
        outcome(Status.CONTROLLER_COULD_NOT_START_IN_TIME),
        outcome(Status.SKIPPED_BY_CONTROLLER, total=ms(1)),
        outcome(Status.CONTROLLER_COULD_NOT_START_IN_TIME, admitted=True),
        outcome(Status.TIMEOUT),
        outcome(Status.TIMEOUT, admitted=True),
        outcome(Status.ERROR),
    ):
        outcomes.add(0, it)
    row = outcomes.total.summary(outcomes.seconds)
    kinds = ("sent", "in_time", "refused", "admitted_missed", "late", "failed")
    assert [row[kind] for kind in kinds] == [8, 1, 2, 2, 2, 1]
    assert row["goodput_rps"] == 0.1
    assert row["batch_size_mean"] == 2.0
    assert outcomes.total.reasons == {"took ## ms": 2}


def test_requests_of_the_warm_up_are_in_the_series_and_not_in_the_counts() -> None:
    outcomes = Outcomes(warmup=2 * SECOND, duration=4 * SECOND, bucket=SECOND)
    for second in range(4):
        outcomes.add(0, outcome(at=second * SECOND))
    assert outcomes.series["in_time"] == [1, 1, 1, 1]
    assert outcomes.total.sent == 2
    assert outcomes.seconds == 2
