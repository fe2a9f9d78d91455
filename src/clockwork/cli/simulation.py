"""Runs the experiments of ``clockwork sim`` and ``clockwork load-test``: reads scenarios, writes and shows results."""

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from msgspec import Struct
from msgspec.structs import asdict, replace
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from clockwork.cli.configuration import read_text
from clockwork.cli.output import plain, prediction_curves, prediction_section, show
from clockwork.cli.process import set_library_caches
from clockwork.cli.security import Credentials
from clockwork.clock import MonotonicClock
from clockwork.errors import InvalidRequestError, ServerError
from clockwork.paced.from_status import models_of
from clockwork.paced.models import PacedModel
from clockwork.sim import swarm
from clockwork.sim.cluster import SimulationError
from clockwork.sim.from_state import scenario_of
from clockwork.sim.run import Simulation, workload_rng
from clockwork.sim.scenario import Scenario, altered, parse_scenario, variants
from clockwork.units import MILLISECOND, Nanos, ms, seconds
from clockwork.workload.outcomes import Outcomes
from clockwork.workload.spec import make_workload

REPORT_EVERY: Final = seconds(10)
"""Time between two lines about the progress, if stderr is not a terminal."""

MAX_SCENARIO_BYTES: Final = 1 << 20
MAX_TRACE_BYTES: Final = 1 << 31

Record = Callable[[dict[str, Any]], None]


class Experiment(Struct, frozen=True):
    """A scenario, the models of a live system, and the lines of the scenario's traces.

    ``models`` is None if the scenario itself defines its models.
    """

    scenario: Scenario
    models: list[tuple[PacedModel, int]] | None
    traces: dict[str, list[str]]
    load: float = 1.0  #: the scenario's load is already multiplied by this factor

    def runs(self) -> list[tuple[float, Scenario]]:
        """Return the runs of the sweep, each with its load. A load is a factor of the load in the scenario file."""
        return [(load * self.load, variant) for load, variant in variants(self.scenario)]


def read_experiment(
    *,
    scenario: Path | None = None,
    state: Path | None = None,
    devices: Sequence[int] = (),
    load: float = 1.0,
    slo: float = 1.0,
    slo_ns: Nanos | None = None,
    scheduler: str | None = None,
    traces: Sequence[str] = (),
    profile: str | None = None,
) -> Experiment:
    """Read a scenario, the state of a live system, or both.

    ``load`` and ``slo`` are factors. ``slo_ns`` replaces all SLOs.

    Raises:
        InvalidRequestError: a file cannot be read or has wrong content.
    """
    live = None if state is None else _read_state(state)
    if scenario is not None:
        experiment = parse_scenario(read_text(scenario, MAX_SCENARIO_BYTES), str(scenario))
    else:
        assert live is not None
        experiment = scenario_of(live)
    if live is not None and scenario is not None:
        experiment = scenario_of(live, experiment)
    experiment = altered(
        experiment,
        devices=devices,
        load=load,
        slo=slo,
        slo_ms=None if slo_ns is None else slo_ns / MILLISECOND,
        profile=profile,
    )
    if scheduler is not None:
        experiment = replace(experiment, scheduler=scheduler)
    return Experiment(experiment, None if live is None else models_of(live), dict(map(_read_trace, traces)), load)


def run(experiment: Experiment, seed: int, records: Path | None) -> dict[str, Any]:
    """Simulate all variants of a scenario, and return the content of the JSON with the results."""
    rows, details, violations = [], [], list[str]()
    chosen, clock = experiment.runs(), MonotonicClock()
    with _recorder(records) as record, _bar() as bar:
        for number, (load, variant) in enumerate(chosen):
            task = bar.add_task(f"{variant.name} {number + 1}/{len(chosen)}", total=1.0)
            begin = clock.now()
            numbered = None if record is None else _numbered(record, number + 1, load, variant, seed)
            simulation = _simulate(experiment, variant, seed, numbered, _completed(bar, task))
            wall = (clock.now() - begin) / 1e9
            rows += _rows(simulation, load, variant, wall)
            details.append(_detail(simulation, load, variant))
            violations += simulation.watcher.violations
            bar.remove_task(task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "name": experiment.scenario.name,
        "seed": seed,
        "scheduler": experiment.scenario.scheduler,
        "rows": rows,
        "memory_mib": round(peak, 1),
        "violations": violations,
        "details": details,
        "ideal_rps": None if experiment.models is not None else experiment.scenario.ideal_rate(),
        "compared": [asdict(other) for other in experiment.scenario.compare],
    }


def _simulate(
    experiment: Experiment, variant: Scenario, seed: int, record: Record | None, progress: Callable[[float], None]
) -> Simulation:
    try:
        simulation = Simulation(
            variant, seed, models=experiment.models, traces=experiment.traces, record=record, progress=progress
        )
        return simulation.run()
    except SimulationError as error:
        raise ServerError(f"the simulation of {variant.name} failed: {error}") from None


def _rows(simulation: Simulation, load: float, variant: Scenario, wall: float) -> list[dict[str, Any]]:
    outcomes = simulation.outcomes
    devices = {"devices": variant.devices.count}
    end = {
        "utilisation": round(simulation.utilisation(), 4),
        "wall_s": round(wall, 2),
        "requests_per_wall_s": round(sum(outcomes.series["sent"]) / wall) if wall else None,
    }
    if variant.changes:
        end |= _change_row(simulation.changes.summary())
    if variant.autoscaler.max_workers:
        end |= simulation.autoscaler.summary()
    return [devices | row | (end if row["stream"] == "all" else {}) for row in outcome_rows(outcomes, load, variant)]


def _change_row(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the columns about changes of served models during a run."""
    return {
        "changes": summary["count"],
        "changes_failed": summary["failed"],
        "ready_ms_p99": summary["ready_ms_p99"],
        "missed_meanwhile": sum(count for name, count in summary["meanwhile"].items() if name != "requests"),
    }


def outcome_rows(outcomes: Outcomes, load: float, variant: Scenario) -> list[dict[str, Any]]:
    """Return the rows of the table for a run.

    There is a row for all streams together, a row for each stream if there are several, and a row for each step of an
    SLO ladder.
    """
    common = {"slo_ms": variant.slo_ms, "load": load}
    own = {spec.slo_ms for spec in variant.workload}
    all_streams = {"stream": "all"} | ({} if len(own) == 1 or None in own else {"slo_ms": None})
    rows = [common | all_streams | outcomes.total.summary(outcomes.seconds)]
    for number, spec in enumerate(variant.workload):
        counts = outcomes.by_stream.get(number)
        if counts is not None and len(variant.workload) > 1:
            slo = spec.slo_ms if spec.slo_ms is not None else variant.slo_ms
            head = {"stream": spec.name or f"{number + 1} {spec.kind}", "slo_ms": slo}
            rows.append(common | head | counts.summary(outcomes.seconds))
        if spec.slo_ladder is not None:
            for slo_ns, step in sorted(outcomes.by_slo.items()):
                row = {"stream": "step", "slo_ms": round(slo_ns / 1e6, 3)}
                rows.append(common | row | step.summary(spec.slo_ladder.step_s))
    return rows


def _detail(simulation: Simulation, load: float, variant: Scenario) -> dict[str, Any]:
    predicted = prediction_section(simulation.cluster.ask_status())
    curves = prediction_curves(simulation.cluster.controller.predictions())
    changes = {"changes": simulation.changes.summary()} if variant.changes else {}
    scaling = {"scaling": simulation.autoscaler.series} if variant.autoscaler.max_workers else {}
    return (
        outcome_detail(simulation.outcomes, load, variant)
        | changes
        | scaling
        | {
            "devices": variant.devices.count,
            "prediction": predicted | {"cdf": curves},
            "utilisation": simulation.utilisation_series(),
            "actions": simulation.watcher.actions,
            "warnings": simulation.watcher.reports[:20],
        }
    )


def outcome_detail(outcomes: Outcomes, load: float, variant: Scenario) -> dict[str, Any]:
    """Return the data for the plots, and the reasons why promises were broken."""
    return {
        "slo_ms": variant.slo_ms,
        "load": load,
        "bucket_s": variant.bucket() / 1e9,
        "series": outcomes.series,
        "latency_cdf": [(round(at, 4), round(share, 6)) for at, share in outcomes.total.latency.steps()],
        "broken_promises": outcomes.total.reasons,
        "failure": outcomes.total.failure,
        "none_in_time": {} if outcomes.total.in_time else outcomes.total.setbacks,
    }


def run_live(
    address: str,
    experiment: Experiment,
    seed: int,
    generated: bool,
    connections: int,
    credentials: Credentials = Credentials(),
    records: Path | None = None,
) -> dict[str, Any]:
    """Run the workload of all variants of a scenario against a live server.

    The results have the same form as the results of `run`, without the entries that only a simulation has.
    """
    from clockwork.client import AsyncClient
    from clockwork.client.load import LoadTest

    rows: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    chosen = experiment.runs()
    arguments = credentials.arguments()

    async def play() -> None:
        async with AsyncExitStack() as stack:
            bar, record = stack.enter_context(_bar()), stack.enter_context(_recorder(records))
            clients = [await stack.enter_async_context(AsyncClient(address, **arguments)) for _ in range(connections)]
            for number, (load, variant) in enumerate(chosen):
                duration = seconds(variant.duration_s)
                workload = make_workload(
                    variant.workload, variant.model_names(), duration, workload_rng(seed), experiment.traces
                )
                outcomes = Outcomes(warmup=seconds(variant.warmup_s), duration=duration, bucket=variant.bucket())
                task = bar.add_task(f"{variant.name} {number + 1}/{len(chosen)}", total=duration)
                test = LoadTest(
                    clients,
                    workload,
                    outcomes,
                    default_slo=ms(variant.slo_ms),
                    generated=generated,
                    progress=_completed(bar, task),
                    record=None if record is None else _numbered(record, number + 1, load, variant, seed),
                )
                await test.run()
                bar.remove_task(task)
                end = {"sent_late_ms_max": round(test.sent_late / 1e6, 3)}
                rows.extend(row | end for row in outcome_rows(outcomes, load, variant))
                predicted = {"prediction": prediction_section(await clients[0].status())}
                details.append(outcome_detail(outcomes, load, variant) | predicted)

    uvloop.run(play())
    head = {"name": experiment.scenario.name, "seed": seed, "scheduler": "the server's", "rows": rows}
    return head | {"violations": [], "details": details}


def fail_on_violations(results: dict[str, Any]) -> None:
    """Print the first violations of invariants, and fail if there are any.

    Raises:
        ServerError: an invariant was violated.
    """
    if results["violations"]:
        for text in results["violations"][:10]:
            show(text)
        raise ServerError(f"invariants were violated {len(results['violations'])} times; the first are listed above")


def check_writable(*files: Path | None) -> None:
    """Check that files can be written. A command calls this before a long run.

    Raises:
        InvalidRequestError: one of the files cannot be written.
    """
    for path in files:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):
                pass
        except OSError as error:
            raise InvalidRequestError(f"cannot write {path}: {error.strerror}") from None


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write the results to a file as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plain(results)), indent=1) + b"\n")


def draw(directory: Path, results: dict[str, Any]) -> None:
    """Draw plots of the results as PNG files.

    Raises:
        InvalidRequestError: matplotlib is not installed.
    """
    set_library_caches()
    try:
        from clockwork.plots import draw_all
    except ImportError:
        raise InvalidRequestError("--plots needs matplotlib; run: pip install 'matplotlib>=3.9'") from None
    directory.mkdir(parents=True, exist_ok=True)
    for path in draw_all(directory, results):
        show(f"plot: {path}")


def run_swarm(first: int, count: int, records: Path | None, *, overload: bool = False) -> None:
    """Simulate a random scenario for each seed. If ``overload`` is true, simulate an overloaded controller instead.

    Raises:
        ServerError: an invariant was violated. The message contains a command that repeats the run.
    """
    requests = 0
    with _recorder(records) as record, _bar() as bar:
        task = bar.add_task("swarm", total=count)
        for seed in range(first, first + count):
            try:
                if overload:
                    problems = swarm.run_overload(seed)
                else:
                    simulation = swarm.run(seed, record)
                    requests += simulation.outcomes.total.sent
                    problems = simulation.watcher.violations
            except KeyboardInterrupt:
                show(f"interrupted in seed {seed}")
                raise
            except Exception as error:  # noqa: BLE001 - any exception is a defect that the swarm looks for
                problems = [f"{type(error).__name__}: {error}"]
            if problems:
                for text in problems[:10]:
                    show(text)
                flags = "--swarm --overload" if overload else "--swarm"
                raise ServerError(f"seed {seed} violates an invariant; replay: clockwork sim {flags} --seed {seed}")
            bar.advance(task)
    counted = "" if overload else f", {requests} requests"
    show(f"{count} seeds, starting at {first}{counted}: no violation")


def _numbered(record: Record, run: int, load: float, variant: Scenario, seed: int) -> Record:
    """Write a record of the start of a run. Return a function that writes records with the number of the run."""
    head = {"record": "run", "run": run, "name": variant.name, "scheduler": variant.scheduler, "seed": seed}
    record(head | {"slo_ms": variant.slo_ms, "load": load, "devices": variant.devices.count})
    return lambda entry: record({"run": run} | entry)


@contextmanager
def _recorder(path: Path | None) -> Iterator[Record | None]:
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = msgspec.json.Encoder().encode
    with path.open("wb") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(encode(record) + b"\n")

        yield write


def _completed(bar: Progress, task: TaskID) -> Callable[[float], None]:
    """Return a function that updates the progress bar. If stderr is not a terminal, it prints a line every 10 s."""
    if not bar.disable:
        return lambda completed: bar.update(task, completed=completed)
    name, total = next((known.description, known.total) for known in bar.tasks if known.id == task)
    printed = MonotonicClock.now()

    def report(completed: float) -> None:
        nonlocal printed
        now = MonotonicClock.now()
        if total and now - printed >= REPORT_EVERY:
            printed = now
            print(f"{name}: {completed / total:.0%}", file=sys.stderr, flush=True)

    return report


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = msgspec.json.decode(read_text(path, MAX_TRACE_BYTES))
    except msgspec.DecodeError as error:
        raise InvalidRequestError(
            f"{path} is not valid JSON: {error}; make the file with: clockwork status --json"
        ) from None
    if not isinstance(state, dict) or "models" not in state or "workers" not in state:
        raise InvalidRequestError(f"{path} has no models or no workers; make the file with: clockwork status --json")
    return state


def _read_trace(text: str) -> tuple[str, list[str]]:
    name, equals, path = text.partition("=")
    if not equals or not Path(path).is_file():
        raise InvalidRequestError(f"invalid --trace {text!r}; write NAME=FILE, with an existing file")
    return name, read_text(Path(path), MAX_TRACE_BYTES).splitlines()
