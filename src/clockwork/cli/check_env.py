"""``clockwork check-env``: what on this host would make a worker's times vary."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec.structs import replace

from clockwork.cli.devices import DeviceKind, DeviceOptions
from clockwork.cli.options import AsJson, Devices, ThreadsPerDevice, examples

if TYPE_CHECKING:
    from rich.table import Table

    from clockwork.environment.findings import Finding, Level

EXAMPLES: Final = examples(
    "clockwork check-env",
    "clockwork check-env --devices 4 --seconds 10",
    "clockwork check-env --device cuda",
    "clockwork check-env --strict --json | jq .findings",
)


def check_env(
    device: DeviceKind = "cpu",
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="Time to measure; more finds rarer interruptions.")
    ] = 2,
    strict: Annotated[bool, typer.Option("--strict", help="Fail for warnings too.")] = False,
    json: AsJson = False,
) -> None:
    """Look at this host as a worker would: cores, clocks, memory and limits, and measure what interrupts a thread.

    For each finding: what was found, what it costs, how to mend it. Run it where the worker will run, in its container
    and with its cores, while the host does what it usually does. Nothing is changed, and no server is asked.

    The exit code is 1 if something is bad, with --strict also if there is a warning.
    """
    from clockwork.cli.output import show, show_json
    from clockwork.environment.checks import judge
    from clockwork.environment.findings import worst
    from clockwork.environment.measurement import examine

    options = DeviceOptions(device)
    options.check(threads_per_device)
    environment = examine(devices, threads_per_device, seconds)
    if options.on_gpus:
        from clockwork.runtimes import nvidia

        environment = replace(environment, gpus=nvidia.look())
    findings = judge(environment)
    if json:
        show_json({"worst": worst(findings), "findings": findings, "environment": environment})
    else:
        show(*describe(findings))
    raise typer.Exit(exit_code(findings, strict))


def exit_code(findings: "Sequence[Finding]", strict: bool) -> int:
    """1 if something is bad, or, if ``strict``, no more than a warning; else 0."""
    from clockwork.environment.findings import Level, worst

    return int(worst(findings).rank >= (Level.WARNING if strict else Level.BAD).rank)


def describe(findings: "Sequence[Finding]") -> "Iterable[Table | str]":
    """What people see: a line for each finding, then costs and mends, worst first, then how many there are."""
    from clockwork.cli.output import table
    from clockwork.environment.findings import NOT_TOLD, Level

    yield table("", ("check", "level", "found"), [(it.name, it.level, it.found) for it in findings])
    yield ""
    for it in sorted(findings, key=lambda it: -it.level.rank):
        if it.level is not Level.OK and it.found != NOT_TOLD:
            yield f"{it.name} ({it.level}): {it.cost}"
            if it.mend:
                yield f"  mend: {it.mend}"
    counts = [(level, sum(it.level is level for it in findings)) for level in reversed(Level)]
    yield ", ".join(_count(level, count) for level, count in counts if count)


def _count(level: "Level", count: int) -> str:
    """``2 bad``, ``1 warning``, ``3 notes``."""
    return f"{count} {level}{'s' if count > 1 and level in ('warning', 'note') else ''}"
