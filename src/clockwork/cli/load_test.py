"""``clockwork load-test``: a scenario's workload against a live server."""

from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer

from clockwork.cli.options import client_address, examples
from clockwork.cli.security import Caller, OwnTlsCert, OwnTlsKey, TlsCa, TokenFile
from clockwork.cli.sim import Factor, JsonFile, Seed, SloFactor, Trace, factor
from clockwork.net.address import Address

EXAMPLES: Final = examples(
    "clockwork load-test 127.0.0.1:12346 experiments/live.toml",
    "clockwork load-test 127.0.0.1:12346 experiments/live.toml --load 1.5x --json live.json",
)

Where: TypeAlias = Annotated[Address, typer.Argument(parser=client_address, metavar="ADDRESS", show_default=False)]
ScenarioPath: TypeAlias = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, metavar="SCENARIO.toml", show_default=False)
]
Generated: TypeAlias = Annotated[
    bool, typer.Option("--generated", help="Send no data: the worker makes zeros of the inputs' shapes.")
]
Connections: TypeAlias = Annotated[int, typer.Option(min=1, max=256, help="Connections to the server.")]


def load_test(
    address: Where,
    scenario: ScenarioPath,
    seed: Seed = 1,
    json: JsonFile = None,
    load: Factor = "1x",
    slo: SloFactor = "1x",
    trace: Trace = None,
    generated: Generated = False,
    connections: Connections = 2,
    tls_ca: TlsCa = None,
    tls_cert: OwnTlsCert = None,
    tls_key: OwnTlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Play the workload of a scenario against a live server, in real time, and say what came of it.

    The scenario's models have to be served under their names; its devices, network, noise and faults are the
    simulator's business and are left aside. Latency counts from the moment a request was due.
    """
    from clockwork.cli import simulating

    what = simulating.read(scenario, None, None, factor(load), factor(slo), None, trace or [])
    simulating.check_writable(json)
    results: dict[str, Any] = simulating.run_live(
        str(address), what, seed, generated, connections, Caller(tls_ca, tls_cert, tls_key, token_file)
    )
    simulating.show_results(results)
    if json is not None:
        simulating.write_json(json, results)
