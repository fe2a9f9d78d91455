"""Tests whether a scheduler follows the rules for schedulers.

::

    from clockwork.testing import check_scheduler
    check_scheduler(MyScheduler)

The scheduler runs in virtual time inside the production controller, with production workers. The scheduler must follow
the rules of `clockwork.scheduling.base` and some invariants of ARCHITECTURE.md. A scheduler raises no errors and makes
no invalid actions (I7, I8). Every request is answered exactly once (I1). No request succeeds after its deadline (I2).
When nothing is running, the controller's view of every device's memory matches the device (I6). The scheduler must also
be deterministic, let time pass, and serve a single request on idle devices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from clockwork.scheduling.base import Scheduler, changes_models
from clockwork.sim.change_spec import ChangeSpec
from clockwork.sim.devices_spec import DevicesSpec
from clockwork.sim.run import Simulation
from clockwork.sim.scenario import FaultSpec, ModelSpec, NetworkSpec, Scenario
from clockwork.testing.clients import Clients
from clockwork.testing.observed import Observed
from clockwork.workload.spec import StreamSpec

CHECK_EVERY: Final = 5
"""Number of events between two checks of the invariants. In the situation `CLIENTS`, the invariants are checked after
each event.
"""

MAX_EVENTS_PER_REQUEST: Final = 2000
"""Limit of events per request. A scheduler that requests too many wake-ups exceeds this limit."""

_FAST: Final = {"1": 1.0, "2": 1.5, "4": 2.5, "8": 4.5}
_ONE: Final = ModelSpec("one", 1, "", 3.0, _FAST, weights_bytes=1 << 24)
_MANY: Final = ModelSpec("many", 12, "", 3.0, _FAST, weights_bytes=2 << 24)
_SLOW: Final = ModelSpec("slow", 2, "", 10.0, {"1": 30.0}, weights_bytes=3 << 24)


def _scenario(name: str, *streams: StreamSpec, **changes: Any) -> Scenario:
    defaults: dict[str, Any] = {
        "models": (_ONE, _MANY, _SLOW),
        "workload": streams,
        "name": name,
        "duration_s": 1.0,
        "warmup_s": 0.0,
        "slo_ms": 60.0,
        "devices": DevicesSpec(2, 1, 100),
    }
    return Scenario(**(defaults | changes))


_POISSON: Final = StreamSpec("poisson", rate=200.0)
_LONE: Final = StreamSpec("fixed", rate=1.0, models=("one",), slo_ms=5000.0)
_ONE_BY_ONE: Final = StreamSpec("fixed", rate=5.0, slo_ms=5000.0)
_DEATH: Final = FaultSpec("worker-death", 0.3, 0.3, 0)

SITUATIONS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        _scenario("a single request", _LONE, duration_s=2.5),
        _scenario("one request after the other", _ONE_BY_ONE, duration_s=3.0, devices=DevicesSpec(1, 1, 9)),
        _scenario("a moderate load", _POISSON),
        _scenario("more models than memory", _POISSON, devices=DevicesSpec(1, 2, 9)),
        _scenario("room for little more than one model", _POISSON, devices=DevicesSpec(1, 1, 3)),
        _scenario("overload", StreamSpec("poisson", rate=3000.0), duration_s=0.25),
        _scenario("bursts", StreamSpec("gamma", rate=300.0, cv=4.0)),
        _scenario("clients that wait for answers", StreamSpec("closed", concurrency=2, think_ms=20.0)),
        _scenario("deadlines that no device can meet", StreamSpec("poisson", rate=100.0, slo_ms=0.2), _POISSON),
        _scenario(
            "several rows in a request", StreamSpec("poisson", rate=100.0, models=("one",), batch_size=3), _POISSON
        ),
        _scenario("a worker that dies and comes back", _POISSON, faults=(_DEATH,)),
        _scenario(
            "a worker of two devices dies and comes back",
            StreamSpec("poisson", rate=600.0),
            devices=DevicesSpec(2, 2, 12),
            faults=(_DEATH,),
        ),
        _scenario(
            "the only worker dies and comes back",
            _POISSON,
            devices=DevicesSpec(1, 1, 100),
            faults=(_DEATH,),
        ),
        _scenario("actions that fail", _POISSON, faults=(FaultSpec("failing", 0.2, 0.5, 0, 0.3),)),
        _scenario("a device that is slow", _POISSON, faults=(FaultSpec("slow-device", 0.2, 0.4, 0, 8.0),)),
        _scenario("a link that stalls", _POISSON, faults=(FaultSpec("stalled-link", 0.2, 0.2, 0),)),
        _scenario("a slow network", _POISSON, network=NetworkSpec(delay_ms=8.0)),
    )
}
"""The simulated situations by name."""


_CHANGE: Final = ChangeSpec("replace", read_ms=20.0, first_factor=2.0)
_CHANGES: Final = (
    replace(_CHANGE, models=("one",), at_s=0.05, every_s=0.3),
    replace(_CHANGE, kind="load", models=("many-1",), at_s=0.1, every_s=0.5),
    replace(_CHANGE, kind="unload", models=("many-2",), at_s=0.2),
    replace(_CHANGE, kind="reload", models=("slow-1",), at_s=0.3),
    replace(_CHANGE, kind="load", models=("many-2",), at_s=0.7),
)

CHANGING: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        _scenario("models that are loaded, replaced and unloaded", _POISSON, changes=_CHANGES),
        _scenario(
            "models that change with little memory, and a worker that dies and comes back",
            _POISSON,
            devices=DevicesSpec(2, 1, 9),
            changes=_CHANGES,
            faults=(_DEATH,),
        ),
    )
}
"""The situations for schedulers that define `model_added` and `model_removed`."""


CLIENTS: Final = "clients with different requests that cancel and go away, and evictions"
"""Name of the situation that `clockwork.testing.clients` simulates."""

_SERVED: Final = ("a single request", "one request after the other")
_TWICE: Final = ("more models than memory", "a worker of two devices dies and comes back")
"""Situations that are simulated twice to check that the scheduler is deterministic. `CLIENTS` is simulated twice as
well.
"""


def check_scheduler(factory: Callable[[], Scheduler], *, seeds: int = 5, executes: bool = True) -> None:
    """Test schedulers that ``factory`` creates. Each situation is run with ``seeds`` seeds.

    A scheduler that defines `model_added` and `model_removed` is also tested while models are loaded, replaced and
    unloaded. Afterwards the scheduler must not keep the names of unloaded models.

    ``executes`` is False for a scheduler that answers requests without executing models.

    Raises:
        AssertionError: the scheduler breaks a rule. The message contains the rule and the situation.
    """
    for seed in range(1, seeds + 1):
        where = f"in the situation {CLIENTS!r}, seed {seed}"
        decisions = _check_clients(factory, seed, where)
        if seed == 1:
            _check_same(decisions, _check_clients(factory, seed, where), where)
    changing = CHANGING if changes_models(factory()) else {}
    for name, scenario in {**SITUATIONS, **changing}.items():
        for seed in range(1, seeds + 1):
            where = f"in the situation {name!r}, seed {seed}"
            decisions = _check(factory, scenario, seed, where, served=name in _SERVED, executes=executes)
            if name in _TWICE and seed == 1:
                _check_same(decisions, _check(factory, scenario, seed, where), where)


def _check(
    factory: Callable[[], Scheduler],
    scenario: Scenario,
    seed: int,
    where: str,
    *,
    served: bool = False,
    executes: bool = False,
) -> list[tuple[int, object]]:
    """Run one situation, and return the scheduler's decisions."""
    scheduler = Observed(factory())
    simulation = Simulation(scenario, seed, check_every=CHECK_EVERY, scheduler=scheduler)
    simulation.histories.append(scheduler.decisions)
    simulation.run()
    _check_rules(scheduler, simulation.watcher.violations, where)
    sent = sum(simulation.outcomes.series["sent"])
    events = simulation.loop.events
    assert events <= MAX_EVENTS_PER_REQUEST * (sent + 10), f"{where}: {events} events for {sent} requests"
    if served:
        counts = simulation.outcomes.total
        assert counts.in_time == counts.sent > 0, (
            f"{where}: a single request with time to spare was not served: {counts.reasons or 'refused'}"
        )
    if served and executes:
        assert simulation.watcher.actions.get("Infer"), f"{where}: a request was answered without an Infer"
    return scheduler.decisions


def _check_clients(factory: Callable[[], Scheduler], seed: int, where: str) -> list[tuple[int, object]]:
    scheduler = Observed(factory())
    clients = Clients(scheduler, seed).run()
    _check_rules(scheduler, clients.watcher.violations, where)
    return scheduler.decisions


def _check_rules(scheduler: Observed, violations: Sequence[str], where: str) -> None:
    problems = scheduler.problems + [text for text in violations if "no fault explains it" not in text]
    assert not problems, f"{where}: {problems[0]}"


def _check_same(decisions: list[tuple[int, object]], again: list[tuple[int, object]], where: str) -> None:
    if decisions != again:
        pairs = enumerate(zip(decisions, again, strict=False))
        number, (one, other) = next(
            (found for found in pairs if found[1][0] != found[1][1]), (min(len(decisions), len(again)), ("", "missing"))
        )
        raise AssertionError(
            f"{where}: the scheduler is not deterministic: its decision {number} was {one} at first, and {other} later"
        )
