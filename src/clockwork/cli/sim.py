"""The commands ``clockwork sim``, which simulates a scenario, and ``clockwork load-test``, which needs a server."""

import re
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli.options import examples
from clockwork.cli.parsers import client_address, duration, factor
from clockwork.cli.security import ClientTlsCa, ClientTlsCert, ClientTlsKey, ClientTokenFile, Credentials
from clockwork.net.address import Address
from clockwork.units import Nanos

MAX_RUNS: Final = 100
"""Largest number of different device counts that one command simulates."""

SIM_EXAMPLES: Final = examples(
    "clockwork sim experiments/osdi20/fig5.toml --seed 1 --json fig5.json --plots plots",
    "clockwork status --json > state.json",
    "clockwork sim --from-state state.json --devices 1..8 --load 2x --slo 50ms   # how many devices",
    "clockwork sim --swarm --seeds 200                               # search for defects",
)
LOAD_TEST_EXAMPLES: Final = examples(
    "clockwork load-test 127.0.0.1:12346 experiments/live.toml",
    "clockwork load-test 127.0.0.1:12346 experiments/live.toml --load 1.5x --json live.json",
)

OptionalScenario: TypeAlias = Annotated[
    Path | None,
    typer.Argument(
        exists=True, dir_okay=False, metavar="[SCENARIO.toml]", help="File with the scenario.", show_default=False
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Seed. The same seed results in the same run.")]
JsonFile: TypeAlias = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="File for the results, as JSON.")
]
Records: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File for records of all requests and actions, as lines of JSON.")
]
Details: TypeAlias = Annotated[
    bool, typer.Option("--details", help="Also show cold starts over time and prediction errors.")
]
Plots: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="DIR", file_okay=False, help="Directory for plots, as PNG files.")
]
FromState: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="Read models, times, devices, recent rates and SLOs from a file that clockwork status --json printed.",
    ),
]
DeviceCounts: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="COUNTS",
        help="Number of devices, in place of the scenario's. With several numbers (1..8 or 1,2,4), there is a run for "
        "each, and the output shows the smallest number that suffices.",
    ),
]
Target: TypeAlias = Annotated[
    str, typer.Option("--target", metavar="PERCENT", help="For --devices: the share of requests that must be in time.")
]
LoadFactor: TypeAlias = Annotated[
    str, typer.Option("--load", metavar="FACTOR", help="Multiply the request rates, for example by 2x.")
]
SloChange: TypeAlias = Annotated[
    str,
    typer.Option(
        "--slo", metavar="DURATION|FACTOR", help="SLO of all requests, such as 50ms, or a factor, such as 0.5x."
    ),
]
OtherScheduler: TypeAlias = Annotated[
    str | None, typer.Option("--scheduler", metavar="NAME", help="Scheduler, in place of the scenario's.")
]
OtherProfile: TypeAlias = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="Profile for all models whose profile the scenario names."),
]
Trace: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE", help="CSV file of a trace that the workload names. May be repeated."),
]
Swarm: TypeAlias = Annotated[
    bool, typer.Option("--swarm", help="Simulate random scenarios and faults, and look for defects.")
]
Seeds: TypeAlias = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Number of seeds for --swarm, starting at --seed.")
]
Overload: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--overload", help="With --swarm: simulate overloaded controllers, and check that throughput does not collapse."
    ),
]

ServerArgument: TypeAlias = Annotated[
    Address,
    typer.Argument(
        parser=client_address,
        metavar="ADDRESS",
        help="Address where the controller listens for clients.",
        show_default=False,
    ),
]
Scenario: TypeAlias = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, metavar="SCENARIO.toml", help="File with the scenario.", show_default=False
    ),
]
Generated: TypeAlias = Annotated[
    bool, typer.Option("--generated", help="Send no input data. The worker generates zeros.")
]
Connections: TypeAlias = Annotated[int, typer.Option(min=1, max=256, help="Number of connections to the server.")]


def sim(
    scenario: OptionalScenario = None,
    seed: Seed = 1,
    json: JsonFile = None,
    details: Details = False,
    records: Records = None,
    plots: Plots = None,
    from_state: FromState = None,
    devices: DeviceCounts = None,
    target: Target = "99.9%",
    load: LoadFactor = "1x",
    slo: SloChange = "1x",
    scheduler: OtherScheduler = None,
    profile: OtherProfile = None,
    trace: Trace = None,
    swarm: Swarm = False,
    seeds: Seeds = 1,
    overload: Overload = False,
) -> None:
    """Simulate a scenario in virtual time, with the code of the real controller, scheduler and worker.

    The command prints a table. The same seed always gives the same results. If an invariant is violated, the exit code
    is 1.
    """
    from clockwork.cli import simulation
    from clockwork.cli.results import show_needed_devices, show_results
    from clockwork.errors import InvalidRequestError

    if swarm:
        if scenario is not None or from_state is not None or json is not None or plots is not None:
            raise InvalidRequestError("--swarm makes its own scenarios; use it with --seed, --seeds and --records only")
        if overload and records is not None:
            raise InvalidRequestError("--overload writes no records; leave out --records")
        simulation.run_swarm(seed, seeds, records, overload=overload)
        return
    if overload:
        raise InvalidRequestError("--overload needs --swarm")
    if scenario is None and from_state is None:
        raise InvalidRequestError("no scenario is given; give a SCENARIO.toml, --from-state FILE, or --swarm")
    slo_factor, slo_ns = factor_or_duration(slo)
    suffices = share(target)
    experiment = simulation.read_experiment(
        scenario=scenario,
        state=from_state,
        devices=() if devices is None else counts(devices),
        load=factor(load),
        slo=slo_factor,
        slo_ns=slo_ns,
        scheduler=scheduler,
        traces=trace or [],
        profile=profile,
    )
    simulation.check_writable(json, records)
    results = simulation.run(experiment, seed, records)
    show_results(results, details)
    show_needed_devices(results, suffices)
    if json is not None:
        simulation.write_json(json, results)
    if plots is not None:
        simulation.draw(plots, results)
    simulation.fail_on_violations(results)


def load_test(
    address: ServerArgument,
    scenario: Scenario,
    seed: Seed = 1,
    json: JsonFile = None,
    details: Details = False,
    load: LoadFactor = "1x",
    slo: SloChange = "1x",
    trace: Trace = None,
    records: Records = None,
    generated: Generated = False,
    connections: Connections = 2,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Run the workload of a scenario against a live server, in real time, and print the results.

    The server must serve models with the names in the scenario. Only the simulator uses the scenario's devices,
    network, noise and faults. The latency of a request is measured from the time at which the request was due.
    """
    from clockwork.cli import simulation
    from clockwork.cli.results import show_results

    slo_factor, slo_ns = factor_or_duration(slo)
    experiment = simulation.read_experiment(
        scenario=scenario, load=factor(load), slo=slo_factor, slo_ns=slo_ns, traces=trace or []
    )
    simulation.check_writable(json, records)
    caller = Credentials(tls_ca, tls_cert, tls_key, token_file)
    results = simulation.run_live(str(address), experiment, seed, generated, connections, caller, records)
    show_results(results, details)
    if json is not None:
        simulation.write_json(json, results)


def factor_or_duration(text: str) -> tuple[float, Nanos | None]:
    """Parse a factor (``0.5x`` or ``0.5``) or a duration (``50ms``), and return the factor and the duration.

    For a duration, the factor is 1. For a factor, the duration is None.
    """
    if re.fullmatch(r"[0-9.eE+-]+x?", text.strip(), re.IGNORECASE):
        return factor(text), None
    try:
        return 1.0, duration(text)
    except typer.BadParameter:
        raise typer.BadParameter(f"invalid SLO {text!r}; examples: 50ms, 0.5x") from None


def counts(text: str) -> tuple[int, ...]:
    """Parse one or more numbers, such as ``4``, ``1..8`` or ``1,2,4``. Each number must be at least 1."""
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:\.\.(\d{1,6}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last < first + MAX_RUNS:
            numbers.clear()
            break
        numbers += range(first, last + 1)
    if not numbers or len(numbers) > MAX_RUNS:
        raise typer.BadParameter(f"invalid numbers {text!r}; examples: 4, 1..8, 1,2,4; the limit is {MAX_RUNS} numbers")
    return tuple(dict.fromkeys(numbers))


def share(text: str) -> float:
    """Parse a percentage such as ``99.9%`` or ``99.9``, and return the share from 0 to 1."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise typer.BadParameter(f"invalid percentage {text!r}; example: 99.9%")
    return value / 100
