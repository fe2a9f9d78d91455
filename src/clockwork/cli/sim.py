"""``clockwork sim``: scenarios in virtual time."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli.options import examples

EXAMPLES: Final = examples(
    "clockwork sim experiments/osdi20/fig5.toml --seed 1 --json fig5.json --plots plots",
    "clockwork status --json > state.json",
    "clockwork sim --from-state state.json --devices 4 --load 2x     what if",
    "clockwork sim --swarm --seeds 200                               look for defects",
)

ScenarioFile: TypeAlias = Annotated[
    Path | None, typer.Argument(exists=True, dir_okay=False, metavar="[SCENARIO.toml]", show_default=False)
]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Same seed, same run.")]
JsonFile: TypeAlias = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here.")]
Records: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write each request and action here, a JSON a line.")
]
Plots: TypeAlias = Annotated[Path | None, typer.Option(metavar="DIR", file_okay=False, help="Draw PNGs here.")]
FromState: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, metavar="FILE", help="Models, times, devices and rates of a live system's status."
    ),
]
DeviceCount: TypeAlias = Annotated[int | None, typer.Option("--devices", min=1, help="So many workers instead.")]
Factor: TypeAlias = Annotated[str, typer.Option("--load", metavar="FACTOR", help="Multiply the load: 2x.")]
SloFactor: TypeAlias = Annotated[str, typer.Option("--slo", metavar="FACTOR", help="Multiply every SLO: 0.5x.")]
Policy: TypeAlias = Annotated[str | None, typer.Option("--scheduler", metavar="NAME", help="Another scheduler.")]
Profile: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another profile for all models that have one by name.")
]
Trace: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="NAME=FILE", help="The CSV of a trace that the workload names.")
]
Swarm: TypeAlias = Annotated[bool, typer.Option("--swarm", help="Draw scenarios and faults from seeds.")]
Seeds: TypeAlias = Annotated[int, typer.Option(min=1, max=1_000_000, help="Seeds of the swarm, from --seed on.")]

Overload: TypeAlias = Annotated[
    bool, typer.Option("--overload", help="With --swarm: draw controllers under overload, and look for collapse.")
]


def sim(
    scenario: ScenarioFile = None,
    seed: Seed = 1,
    json: JsonFile = None,
    records: Records = None,
    plots: Plots = None,
    from_state: FromState = None,
    devices: DeviceCount = None,
    load: Factor = "1x",
    slo: SloFactor = "1x",
    scheduler: Policy = None,
    profile: Profile = None,
    trace: Trace = None,
    swarm: Swarm = False,
    seeds: Seeds = 1,
    overload: Overload = False,
) -> None:
    """Simulate a scenario with the production controller, scheduler and worker core, in virtual time.

    Prints a table; the same seed gives the same results. A violation of what must always hold ends it with exit code 1.
    """
    from clockwork.cli import simulating
    from clockwork.errors import InvalidRequestError

    if swarm:
        if scenario is not None or from_state is not None or json is not None or plots is not None:
            raise InvalidRequestError("--swarm draws its scenarios: give it --seed, --seeds and --records only")
        if overload and records is not None:
            raise InvalidRequestError("--overload writes no records: leave out --records")
        simulating.run_swarm(seed, seeds, records, overload=overload)
        return
    if overload:
        raise InvalidRequestError("--overload needs --swarm")
    if scenario is None and from_state is None:
        raise InvalidRequestError("what is to be simulated? give a SCENARIO.toml, --from-state FILE, or --swarm")
    what = simulating.read(scenario, from_state, devices, factor(load), factor(slo), scheduler, trace or [], profile)
    simulating.check_writable(json, records)
    results = simulating.run(what, seed, records)
    simulating.show_results(results)
    if json is not None:
        simulating.write_json(json, results)
    if plots is not None:
        simulating.draw(plots, results)
    simulating.fail_on_violations(results)


def factor(text: str) -> float:
    """``2x``, ``0.5x`` or ``2``."""
    try:
        value = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise typer.BadParameter(f"{text!r} is no factor: write 2x or 0.5x, say")
    return value
