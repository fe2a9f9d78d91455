"""The work of requests, and which refusals ask for more devices."""

import pytest
from msgspec.structs import replace

from builders import KIND, a_state, measurement, model_info, pending, profile
from clockwork.controller.scaling import HELPED, MAX_KINDS, Scaling
from clockwork.messages.refusal_reason import RefusalReason
from clockwork.messages.scaling import KindScaling
from clockwork.messages.status import Status
from clockwork.sim.leftovers import leftovers
from clockwork.state import ModelState
from clockwork.units import SECOND, ms

REFUSED = Status.CONTROLLER_COULD_NOT_START_IN_TIME


class Server:
    """A scaling with one model whose rows take 100 ms each, at every batch size."""

    def __init__(self, devices: int = 1) -> None:
        self.state = a_state([model_info("a")], workers=devices)
        self.model = self.state.models["a"]
        slow = {size: measurement(ms(100 * size)) for size in (1, 2, 4)}
        self.model.profiles[KIND] = replace(profile(), infer=slow)
        self.scaling = Scaling(self.state)
        self.now = 0
        self.last = 0

    def load(
        self,
        seconds: int,
        rate: int,
        status: Status = Status.SUCCESS,
        reason: RefusalReason = RefusalReason.OTHER,
        model: ModelState | None = None,
        slo: int = ms(500),
    ) -> KindScaling:
        """Send requests at a rate, answer them at once, and return the result."""
        model = model or self.model
        for _ in range(seconds * rate):
            self.now += SECOND // rate
            self.last += 1
            request = pending(self.last, model, arrival=self.now, slo=slo)
            self.scaling.arrived(self.now, model, 1, slo)
            self.scaling.answered(request, status, reason)
        return self.kind()

    def kind(self) -> KindScaling:
        """Return the only kind of devices."""
        (found,) = self.scaling.kinds(self.now)
        return found


def test_the_variance_stays_right_when_the_cost_of_rows_is_computed_again() -> None:
    server = Server()
    faster = {size: measurement(ms(80 + 20 * size)) for size in (1, 2, 4)}
    server.model.profiles[KIND] = replace(profile(), infer=faster)
    server.load(1, 25, slo=ms(900))
    sums, ((_, cost),) = server.scaling._kinds[KIND], server.scaling._models["a"].shares
    assert cost < 0.1, "the first requests of the slot had larger costs"
    assert sums.urgent == pytest.approx(25 * cost, rel=0.2)
    assert sums.variance == pytest.approx(25 * cost * cost, rel=0.2)


def test_admitted_work_is_compared_with_what_a_device_does() -> None:
    found = Server().load(60, 25)
    assert found.execution == pytest.approx(2.5, rel=0.05)
    assert found.wanted == 3
    assert found.devices == 1
    assert "2.5" in found.why


@pytest.mark.parametrize("reason", [reason for reason in RefusalReason if reason in HELPED])
def test_a_refusal_that_more_devices_would_have_avoided_counts(reason: RefusalReason) -> None:
    found = Server().load(60, 45, REFUSED, reason)
    assert found.wanted == 5
    assert found.refused == pytest.approx(found.execution)


@pytest.mark.parametrize(
    "reason", [RefusalReason.DEVICE_TOO_SLOW, RefusalReason.SERVER_OVERLOADED, RefusalReason.OTHER]
)
def test_a_refusal_that_more_devices_would_not_have_avoided_does_not_count(reason: RefusalReason) -> None:
    found = Server().load(60, 45, REFUSED, reason)
    assert found.wanted == 1
    assert found.execution == pytest.approx(0, abs=1e-6)


def test_wrong_requests_are_no_work() -> None:
    assert Server().load(60, 45, Status.INVALID_REQUEST).wanted == 1


def test_late_requests_count() -> None:
    found = Server().load(60, 45, Status.TIMEOUT)
    assert (found.wanted, round(found.refused, 1)) == (5, 4.5)


def test_many_requests_are_counted_with_the_time_of_large_batches() -> None:
    server = Server()
    server.model.profiles[KIND] = profile()  # 3 ms, and 1 ms for each further row, for up to 4 rows
    server.scaling.forget("a")
    found = server.load(20, 400, slo=ms(100))
    assert found.execution == pytest.approx(400 * 0.006 / 4, rel=0.1)
    few = Server()
    few.model.profiles[KIND] = profile()
    assert few.load(20, 5, slo=ms(100)).execution == pytest.approx(5 * 0.003, rel=0.1)


def test_measured_times_replace_the_profile() -> None:
    server = Server()
    server.load(5, 25)
    for _ in range(200):
        server.scaling.executed(KIND, server.model, 1, ms(200))
    found = server.load(60, 25)
    assert found.execution == pytest.approx(5.0, rel=0.1)
    assert found.wanted == 6


def test_a_model_that_cannot_be_loaded_in_time_asks_for_devices_that_load() -> None:
    server = Server()
    server.model.profiles[KIND] = replace(server.model.profiles[KIND], load_weights=measurement(ms(2500)))
    found = server.load(60, 5, REFUSED, RefusalReason.WEIGHTS_NOT_LOADED)
    assert found.loading == pytest.approx(2.5, rel=0.05)
    assert found.wanted == 4
    assert "loads of weights" in found.why


def test_work_is_divided_among_kinds_of_devices_as_they_execute_it() -> None:
    server = Server()
    server.model.profiles["fast"] = profile()
    for second in range(60):
        server.now = second * SECOND
        for _ in range(20):
            server.scaling.arrived(server.now, server.model, 1, ms(500))
        server.scaling.executed("fast", server.model, 5, ms(7))
        server.scaling.executed(KIND, server.model, 15, ms(1500))
    fast, slow = server.scaling.kinds(server.now)
    assert (fast.kind, slow.kind) == ("fast", KIND)
    assert slow.execution == pytest.approx(15 * 0.1, rel=0.1)
    assert fast.execution < 0.05


def test_a_kind_without_devices_is_wanted_if_a_model_was_measured_on_it() -> None:
    server = Server()
    server.state.workers.clear()
    found = server.load(30, 25, Status.SKIPPED_BY_CONTROLLER, RefusalReason.NO_DEVICE)
    assert (found.kind, found.devices, found.wanted) == (KIND, 0, 3)


def test_the_work_of_each_model_is_listed_and_forgotten_with_the_model() -> None:
    server = Server()
    server.load(30, 25)
    (work,) = server.scaling.models()
    assert (work.model, work.kind, work.row_ms) == ("a", KIND, 100.0)
    assert work.rate == pytest.approx(25, rel=0.1)
    assert work.work == pytest.approx(2.5, rel=0.1)
    server.scaling.loaded(server.now, KIND, server.model, ms(8))
    server.scaling.forget("a")
    assert list(server.scaling.models()) == []
    assert leftovers(server.scaling, frozenset({"a"}), [server.state]) == []


def test_a_model_that_is_removed_just_after_a_load_of_its_weights_leaves_no_name() -> None:
    server = Server()
    server.load(1, 1)
    server.scaling.loaded(server.now, KIND, server.model, ms(10))
    server.scaling.forget("a")
    assert not leftovers(server.scaling, frozenset({"a"}), [server.state])


def test_a_long_pause_costs_no_more_than_the_time_that_is_remembered() -> None:
    server = Server()
    server.load(10, 25)
    server.now += 10**6 * SECOND
    assert server.kind().wanted == 1


def test_the_number_of_kinds_is_limited() -> None:
    server = Server()
    for number in range(3 * MAX_KINDS):
        server.scaling.loaded(server.now, f"kind {number}", server.model, ms(1))
    assert len(server.scaling.kinds(server.now)) <= MAX_KINDS + 1
