"""Compare Clockwork with Ray Serve: the same models, the same machine and the same load.

    make bench-peers
    .venv-ray/bin/python benchmarks/peers/bench_ray_serve.py --json ray_serve.json
    .venv-ray/bin/python benchmarks/peers/bench_ray_serve.py --servers ray --ingress haproxy proxy --fits half

Each server runs as a whole on one core, in a separate session, and serves HTTP. Ray's server is `ray_app.py`, and
Clockwork's server is ``clockwork serve``. The load generator runs on another core. There are 15 models, five of each of
three networks, with different weights. The n-th model gets requests in proportion to 1/n. The inputs are binary tensors
of 602,112 bytes.

The load is an open loop of Poisson arrivals, so the due time of a request does not depend on the server. A latency
counts from the due time. The SLO is 100 ms. A client sends the remaining time minus 4 ms, as Clockwork's ``slo_ms`` or
as the time limit of Ray's request. Loads are multiples of the rate at which bare ONNX Runtime executes the same mix on
the server's core, with all models loaded. This rate is measured once for all servers, so they get the same requests.

There are two limits on the weights that a server may keep:

all   All models fit. Nothing is loaded during the load.
half  Ray Serve may keep half of the models, rounded down. Clockwork's weights cache has the same share of all weights
      in bytes.

The keys of the whole run are:

bare_onnx_per_s      executions per second of bare ONNX Runtime, measured before the servers of each limit
versions             versions of Ray and of ONNX Runtime
starts               time from the start of each server until it serves, in seconds
idle_cold_starts     for each server with the limit half: one client requests all models one after the other, again and
                     again, with an SLO of 10 s. ``cold`` is the number of cold starts. Their latencies are in ms, for
                     all networks together and for each network.

The keys of rows[] are the following. `bench_overload.py` describes the others:

server, fits, load       the measured combination; the server ``ray-direct`` is Ray Serve with ``--ingress direct``
goodput_per_s            successes within the SLO per second
late                     number of successes after the SLO
cold_successes           number of successes whose model was not loaded when the request arrived, as the server reports
cold_ms_p50, _p99        their latency; null without cold successes
least_recent             number of requests to a model that is not among the most recently requested half of the models
least_recent_in_time     share of these requests that succeeded within the SLO
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # the other benchmarks

from bench_overload import (
    ALLOWANCE,
    CLOSED_SLO,
    GENERATOR,
    PATIENCE,
    SERVER,
    SLO,
    Size,
    Target,
    autogroup,
    closed,
    moments,
    settle,
    share,
    summary,
)
from load_ledger import ERROR, SENT, SUCCESS, WRONG, Ledger
from load_loop import closed_loop, open_loop
from peer_load import PeerWire, RayWire, outside
from peer_models import NETWORKS, PAGE, models, optimised, weights_bytes
from ray_app import INGRESSES
from serving import Served, machine, options, p, running, serving, tell

from clockwork.host.affinity import confined
from clockwork.units import SECOND, Bytes

SERVERS = ("clockwork", "ray")
FITS = ("all", "half")
LOADS = (0.6, 1.0, 1.5)
WARM_CYCLES = 3
"""How often each model is requested before the load."""

MAX_CYCLE = 600 * SECOND


@dataclass
class Peer(Target):
    """A server of the comparison."""

    def wire(self, ledger: Ledger) -> PeerWire:
        """Return a new load on the server."""
        return (PeerWire if self.protocol == "clockwork" else RayWire)(self.address, ledger)


@dataclass
class Files:
    """The models, and their files for both servers. ``weights`` contains the bytes of each model's weights."""

    root: Path
    size: Size
    optimised: list[Path]
    weights: list[Bytes]

    @property
    def half(self) -> int:
        """Half of the number of models."""
        return max(1, len(self.size.models) // 2)


def prepared(root: Path, networks: tuple[str, ...], each: int) -> Files:
    """Build the models, and what both servers read at a start."""
    size = models(root / "models", networks, each)
    (root / "optimised").mkdir()
    fast = [optimised(file, root / "optimised") for file in size.models]
    return Files(root, size, fast, weights_bytes(size.models, root / "prepared"))


@contextmanager
def clockwork(files: Files, fits: str) -> Iterator[Peer]:
    """Run Clockwork."""
    arguments = ["--http=127.0.0.1:0", f"--page-size={PAGE}", f"--model-cache={files.root}/prepared"]
    arguments += ["--profile-seconds=0.5", f"--profile-cache={files.root}/profiles"]
    count = len(files.weights)
    arguments += [f"--cache-size={sum(files.weights) * (count if fits == 'all' else files.half) // count}"]
    log = files.root / f"clockwork-{fits}.log"
    with serving(*arguments, *files.size.models, on={SERVER}, here={GENERATOR}, session=True, log=log) as served:
        yield Peer("clockwork", files.size, served, log)


@contextmanager
def ray(files: Files, fits: str, ingress: str, given: list[str]) -> Iterator[Peer]:
    """Run Ray Serve. ``given`` contains more arguments of `ray_app.py`."""
    keep = len(files.size.models) if fits == "all" else files.half
    log = files.root / f"ray-{fits}-{ingress}.log"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary, ExitStack() as stack:
        command = [sys.executable, str(Path(__file__).with_name("ray_app.py")), f"--keep={keep}"]
        command += [f"--ingress={ingress}", f"--temporary={temporary}", *given, *map(str, files.optimised)]
        process = stack.enter_context(running(command, {SERVER}, session=True, log=log))
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit(f"Ray Serve did not start: {log.read_text()[-2000:]}")
        stack.enter_context(confined({GENERATOR}))
        yield Peer(f"ray-{ingress}", files.size, Served(process, http=address), log)


def cycles(peer: Peer, count: int) -> dict[str, Any]:
    """Request all models ``count`` times in turn with one client, and return the latencies of cold starts in ms."""
    templates = peer.size.templates
    every = len(templates)
    ledger = Ledger(count * every, templates, bytes(range(every)), CLOSED_SLO, ALLOWANCE)
    wire = peer.wire(ledger)
    try:
        closed_loop(wire, 1, MAX_CYCLE, PATIENCE)
    finally:
        wire.close()
    found = ledger.arrays(0, ledger.size)
    latency = (found.answered - found.due) / 1e6
    cold = (found.outcome == SUCCESS) & np.frombuffer(bytes(wire.cold), bool)
    result: dict[str, Any] = {"requests": ledger.size, "failed": ledger.size - found.count(SUCCESS)}
    result |= {"wrong": found.count(WRONG), "cold": int(cold.sum())} | percentiles(latency[cold])
    networks = np.array([template.model.rpartition("-")[0] for template in templates] * count)
    for name in dict.fromkeys(networks):
        result[str(name)] = percentiles(latency[cold & (networks == name)])
    return result


def percentiles(latencies: np.ndarray) -> dict[str, float | None]:
    """Return the p50 and the p99, or None if there is no latency."""
    found = list(latencies)
    return {f"ms_p{percent}": p(found, percent) if found else None for percent in (50, 99)}


def row(peer: Peer, load: float, capacity: float, seconds: float) -> dict[str, Any]:
    """Measure one load."""
    size, settled = peer.size, settle(peer)
    due = moments(load * capacity, 0, seconds, 1)
    ledger = Ledger(len(due), size.templates, size.kinds, SLO, ALLOWANCE)
    wire = peer.wire(ledger)
    try:
        open_loop(wire, np.array(due, np.int64), PATIENCE)
    finally:
        wire.close()
    found = ledger.arrays(0, ledger.size)
    in_time = found.in_time()
    cold = (found.outcome == SUCCESS) & np.frombuffer(bytes(wire.cold), bool)
    cold_ms = percentiles(((found.answered - found.due) / 1e6)[cold])
    rare = np.array(outside(ledger.kind, len(size.models) // 2))
    made: dict[str, Any] = {"load": load, "settled": settled}
    made |= {"goodput_per_s": round(int(in_time.sum()) / seconds, 1), "late": found.late()}
    made |= summary(found, capacity, seconds)
    made |= {"cold_successes": int(cold.sum())} | {f"cold_{key}": value for key, value in cold_ms.items()}
    made |= {"least_recent": int(rare.sum()), "least_recent_in_time": share(int(in_time[rare].sum()), int(rare.sum()))}
    made |= {"lost": found.count(SENT), "double": ledger.double, "unknown": ledger.unknown}
    made |= {"wrong": found.count(WRONG), "errors": found.count(ERROR), "error_reasons": ledger.reasons}
    return made | {"generator_behind_ms_p99": p(found.behind_ms(), 99)}


def bare_rate(size: Size, seconds: float) -> float:
    """Return the rate at which bare ONNX Runtime executes the mix on the server's core, one request at a time."""
    executed = 0
    with confined({SERVER}):
        begin = time.perf_counter()
        while (taken := time.perf_counter() - begin) < seconds:
            size.bare[size.kinds[executed % len(size.kinds)]].once()
            executed += 1
    return executed / taken


def measure(given: argparse.Namespace, files: Files) -> dict[str, Any]:
    """Measure all servers in turn, and return the results."""
    found: dict[str, Any] = {"bare_onnx_per_s": [], "starts": [], "idle_cold_starts": [], "rows": []}
    for turn in range(given.rounds):
        for fits in given.fits:
            capacity = bare_rate(files.size, given.seconds / 2)
            found["bare_onnx_per_s"].append(round(capacity, 1))
            for start in starts(given, files, fits):
                begin = time.perf_counter()
                with start as peer:
                    made = {"server": peer.protocol, "fits": fits, "round": turn}
                    found["starts"].append(made | {"seconds": round(time.perf_counter() - begin, 1)})
                    cycles(peer, WARM_CYCLES)
                    if fits == "half":
                        found["idle_cold_starts"].append(made | cycles(peer, given.cycles))
                    closed(peer, 4, given.seconds / 2)  # warm-up with the popularity of the load
                    found["rows"] += [made | row(peer, load, capacity, given.seconds) for load in given.loads]
    return found


def starts(given: argparse.Namespace, files: Files, fits: str) -> Iterator[AbstractContextManager[Peer]]:
    """Return the servers. Each server starts when its context begins."""
    if "clockwork" in given.servers:
        yield clockwork(files, fits)
    if "ray" in given.servers:
        for ingress in given.ingress:
            yield ray(files, fits, ingress, [f"--{option}" for option in given.ray])


def versions(servers: list[str]) -> dict[str, str]:
    """Return the versions of the compared packages.

    Raises:
        SystemExit: Ray Serve is not installed.
    """
    if "ray" not in servers:
        return {"onnxruntime": version("onnxruntime")}
    if find_spec("ray") is None or find_spec("starlette") is None:
        raise SystemExit(f"{sys.executable} has no Ray Serve; run make bench-peers, or use --servers clockwork")
    return {name: version(name) for name in ("ray", "onnxruntime")}


def main() -> None:
    """Run the benchmark, and print and write the results."""
    parser = options(__doc__, seconds=6.0, rounds=1)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS, help="default: both")
    parser.add_argument("--fits", nargs="+", choices=FITS, default=FITS, help="limits on the weights (default: both)")
    parser.add_argument(
        "--loads", nargs="+", type=float, default=LOADS, help="multiples of the rate of bare ONNX Runtime"
    )
    parser.add_argument("--each", type=int, default=5, help="models of each network (default: 5)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="networks of the zoo")
    parser.add_argument("--cycles", type=int, default=20, help="requests to each model for the idle cold starts")
    parser.add_argument("--ingress", nargs="+", choices=INGRESSES, default=INGRESSES[:2], help="of Ray Serve")
    parser.add_argument(
        "--ray", nargs="+", default=(), metavar="NAME=VALUE", help="options of ray_app.py, such as batch=8"
    )
    given = parser.parse_args()
    found = machine() | {"autogroup": autogroup(), "versions": versions(given.servers)}
    with tempfile.TemporaryDirectory() as directory:
        files = prepared(Path(directory), tuple(given.networks), given.each)
        tell(found | measure(given, files), given.json)


if __name__ == "__main__":
    main()
