"""Measure how many requests are in time under overload. The clients measure the latencies.

    python benchmarks/bench_overload.py --json overload.json
    python benchmarks/bench_overload.py --protocols http --sizes large --loads 0.8 1.0 1.5

The whole server runs on one core, in a separate session, as it would under systemd or in a container. The load
generator runs on another core. The load is an open loop of Poisson arrivals, so the due time of a request does not
depend on the server. A latency counts from the due time. The SLO is 100 ms. There are two sizes of requests:

small  A 64-64-10 MLP. Loads are multiples of the rate that the protocol sustained with 64 requests in flight. This rate
       is measured just before the load.
large  Four squeezenets and four shufflenets, each from a separate file, with inputs of 602,112 bytes. Loads are
       multiples of the rate at which bare ONNX Runtime executes the same mix with one thread on the server's core. This
       rate is measured just before the load.

When a client sends a request, it sends the remaining SLO: 100 ms, minus the time that the request waited in the client,
minus 4 ms for the network. gRPC clients do not subtract these 4 ms from their deadline (grpc-timeout). The protocol
``bare`` is ``bare_http.py``, a loop around ONNX Runtime with a minimal HTTP server.

The keys of the whole run are:

autogroup                     whether the kernel schedules each session as a group
bare_onnx_per_s               executions per second of bare ONNX Runtime, measured just before each protocol and size
PROTOCOL_small_requests_per_s rate for the MLP with 64 requests in flight and an SLO of 10 s
PROTOCOL_large_added_ms       time that the server adds to bare ONNX Runtime for squeezenet with one request in flight

The keys of rows[] are the following. Rates are in requests/s, and shares are from 0 to 1:

protocol, size, load     the measured combination
settled                  whether the server answered one client in time within 30 s before the load
asked_per_s              load times capacity
offered_per_s            rate at which the generator sent or tried to send requests; at most 200,000
capacity_per_s           rate of which loads are multiples
in_time_of_offered       share of the offered requests that succeeded within the SLO
in_time_of_capacity      requests in time per second, divided by the smaller of offered_per_s and capacity_per_s
late_successes           share of the successes whose response arrived after the SLO
success_ms_p50, _p99     latency of successes
refusal_ms_p50, _p99     time from the due time until the refusal arrived; null without refusals
refused                  requests that the server refused
timed_out                requests with the response that their deadline has passed
broken                   requests that the server admitted and then reported as late
expired_in_client        requests whose deadline passed before a connection or stream was free
lost                     requests without a response
double                   second responses to a request
unknown                  responses that belong to no request
wrong                    successes with a wrong output
errors                   requests with other errors, including closed connections
worker_losses            how often the controller lost its worker, from its log
recovery_s               time from the end of the load until the server has recovered. The load is then half of the
                         capacity. The server has recovered when at least 99 % of the requests are in time in each of
                         three successive windows of 100 ms. The value is null if this is not observed.
rss_mb                   sum of the peak resident set sizes of all processes
pss_mb                   proportional set size of all processes at the end
error_reasons            number of errors for each reason
generator_behind_ms_p99  lateness of the generator itself. Requests that are more than 10 ms late are not offered.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bare_http import bare_http
from load_grpc import GrpcWire
from load_http import HttpWire
from load_ledger import (
    BROKEN,
    ERROR,
    EXPIRED,
    IN_CLIENT,
    NOT_OFFERED,
    REFUSED,
    SENT,
    SUCCESS,
    TIMED_OUT,
    WRONG,
    Columns,
    Ledger,
    Template,
    check_distinct,
)
from load_loop import Wire, closed_loop, open_loop
from load_native import NativeWire
from serving import Bare, Served, machine, median, options, p, serving, tell

from clockwork.host.affinity import allowed_cores, confined
from clockwork.units import MILLISECOND, SECOND
from clockwork.workload.arrivals import poisson
from clockwork.zoo import build

SERVER, GENERATOR = allowed_cores()[0], allowed_cores()[-1]
SLO = 100 * MILLISECOND
ALLOWANCE = 4 * MILLISECOND
"""The part of the SLO that a client reserves for the network."""

MIN_CAPACITY = 1.0
"""Rate of which loads are multiples if the server sustained no requests, in requests per second."""

CLOSED_SLO = 10 * SECOND
IN_FLIGHT = 64
LOADS = (0.8, 1.0, 1.5, 3.0, 10.0)
MAX_RATE = 200_000.0
"""Highest rate of an open loop, in requests per second. One core cannot send more requests."""

WINDOW = 100 * MILLISECOND
WINDOWS = 3
WINDOW_SHARE = 0.99
LIGHT = 0.5
MAX_SETTLING = 30.0
"""Longest time in seconds before a load to wait until the server answers one client in time."""

SETTLED_SECONDS = 0.2
MAX_TOLD = 2000  # number of characters that are printed of the log of a server that ended
MAX_OBSERVED = 3.0
"""Duration in seconds of the light load after each load."""

PATIENCE = 10 * SECOND
"""Time after the last due time in which late responses count. Requests without a response are then lost."""

WIRES: dict[str, type[Wire]] = {"native": NativeWire, "http": HttpWire, "grpc": GrpcWire, "bare": HttpWire}
SIZES = ("small", "large")
NETWORKS = ("squeezenet", "shufflenet")
INPUTS = 16
LOSSES = ("worker_lost", "worker_died", "worker_dropped", "disconnected")


@dataclass
class Size:
    """The models and the requests of one size."""

    name: str
    models: list[Path]
    templates: list[Template]
    bare: list[Bare]
    kinds: bytes

    def bare_rate(self, duration: float) -> float:
        """Return the rate at which bare ONNX Runtime executes the mix, one request at a time, on the server's core."""
        rng, executed = random.Random(0), 0
        with confined({SERVER}):
            begin = time.perf_counter()
            while (taken := time.perf_counter() - begin) < duration:
                rng.choice(self.bare).once()
                executed += 1
        return executed / taken


def small(root: Path) -> Size:
    """Return one MLP with `INPUTS` different inputs."""
    model = build("mlp", root)
    rng = np.random.default_rng(0)
    return sized("small", [model], [(model, rng.standard_normal((1, 64), np.float32)) for _ in range(INPUTS)])


def large(root: Path, each: int) -> Size:
    """Return ``each`` networks of both kinds. Each network has a different input."""
    models = []
    for name in NETWORKS:
        for seed in range(each):
            directory = root / f"{name}-{seed}"
            directory.mkdir()
            models.append(build(name, directory, seed).rename(root / f"{name}-{seed}.onnx"))
    rng = np.random.default_rng(0)
    return sized("large", models, [(model, rng.standard_normal((1, 3, 224, 224), np.float32)) for model in models])


def sized(name: str, models: list[Path], asked: list[tuple[Path, np.ndarray]]) -> Size:
    """Return the templates of requests, with the outputs of bare ONNX Runtime as expected outputs."""
    bare = [Bare(model, {"data": array}) for model, array in asked]
    outputs = [one.once() for one in bare]
    templates = [
        Template(model.stem, "data", array, output) for (model, array), output in zip(asked, outputs, strict=True)
    ]
    check_distinct(templates)
    rng = random.Random(0)
    return Size(name, models, templates, bare, bytes(rng.randrange(len(templates)) for _ in range(4093)))


@dataclass
class Target:
    """A server, and the protocol that is measured."""

    protocol: str
    size: Size
    served: Served
    log: Path | None

    @property
    def address(self) -> str:
        """The address at which the server serves the protocol."""
        return {"native": self.served.native, "grpc": self.served.grpc}.get(self.protocol, self.served.http)

    def wire(self, ledger: Ledger) -> Wire:
        """Return a new load over the protocol."""
        return WIRES[self.protocol](self.address, ledger)

    def losses(self) -> int:
        """Return how often the controller has lost its worker until now."""
        if self.log is None:
            return 0
        text = self.log.read_text()
        return max(text.count(f'"event": "{event}"') for event in LOSSES)


@contextmanager
def target(protocol: str, size: Size, root: Path) -> Iterator[Target]:
    """Start a server of the models. The server serves only this protocol and the native protocol."""
    with ExitStack() as stack:
        if protocol == "bare":
            served = stack.enter_context(bare_http(size.models, (SLO - 2 * ALLOWANCE) / MILLISECOND, {SERVER}))
            stack.enter_context(confined({GENERATOR}))
            yield Target(protocol, size, served, None)
            return
        log = root / f"{protocol}-{size.name}.log"
        arguments = ["--profile-seconds=0.5", f"--profile-cache={root}/profiles", "--log-level=warning"]
        arguments += ["--log-format=json", *([f"--{protocol}=127.0.0.1:0"] if protocol != "native" else [])]
        serve = serving(*arguments, *size.models, on={SERVER}, here={GENERATOR}, session=True, log=log)
        yield Target(protocol, size, stack.enter_context(serve), log)


def closed(
    aim: Target, in_flight: int, seconds: float, templates: list[Template] | None = None, patience: int = PATIENCE
) -> tuple[float, list[float]]:
    """Run a closed loop. Return requests per second, and the latencies of successes in ms."""
    count = int(seconds * MAX_RATE) + in_flight
    kinds = aim.size.kinds if templates is None else b"\0"
    ledger = Ledger(count, templates or aim.size.templates, kinds, CLOSED_SLO, ALLOWANCE)
    wire = aim.wire(ledger)
    try:
        start, stop = closed_loop(wire, in_flight, int(seconds * SECOND), patience)
    finally:
        wire.close()
    found = ledger.arrays(0, count)
    counted = (found.outcome == SUCCESS) & (found.answered <= stop)
    return float(counted.sum()) / ((stop - start) / SECOND), found.ms(SUCCESS)


def moments(rate: float, begin: float, end: float, seed: int) -> list[int]:
    """Return Poisson arrivals in ns. ``begin`` and ``end`` are in seconds."""
    following, at, found = poisson(rate, random.Random(seed)), int(begin * SECOND), []
    while (at := following(at)) < end * SECOND:
        found.append(at)
    return found


def settle(aim: Target) -> bool:
    """Wait until the server has recovered from the previous load. Return False if this takes too long."""
    end = time.monotonic() + MAX_SETTLING
    while time.monotonic() < end:
        _, latencies = closed(aim, 1, SETTLED_SECONDS, patience=SECOND)
        if latencies and max(latencies) < SLO / MILLISECOND:
            return True
    return False


def row(aim: Target, load: float, capacity: float, seconds: float) -> dict[str, Any]:
    """Measure one load, and the light load after it."""
    rate = min(load * capacity, MAX_RATE)
    observed = min(MAX_OBSERVED, 5 * seconds)
    loaded = moments(rate, 0, seconds, 1)
    light = moments(LIGHT * capacity, seconds, seconds + observed, 2)
    if aim.served.process.poll() is not None:
        told = aim.log.read_text()[-MAX_TOLD:] if aim.log is not None else ""
        raise SystemExit(f"the server of {aim.protocol} ended with {aim.served.process.returncode}: {told}")
    settled = settle(aim)
    allowance = 0 if aim.protocol == "grpc" else ALLOWANCE
    ledger = Ledger(len(loaded) + len(light), aim.size.templates, aim.size.kinds, SLO, allowance)
    losses = aim.losses()
    aim.served.forget_peak()
    wire = aim.wire(ledger)
    try:
        start = open_loop(wire, np.array(loaded + light, np.int64), PATIENCE)
        sizes = {"rss_mb": round(aim.served.peak_rss_mb(), 1), "pss_mb": round(aim.served.pss_mb(), 1)}
    finally:
        wire.close()
    found = ledger.arrays(0, len(loaded))
    after = ledger.arrays(len(loaded), ledger.size)
    whole = ledger.arrays(0, ledger.size)
    made = {"protocol": aim.protocol, "size": aim.size.name, "load": load, "asked_per_s": round(load * capacity, 1)}
    made["settled"] = settled
    made |= summary(found, capacity, seconds)
    made |= {"lost": whole.count(SENT), "double": ledger.double, "unknown": ledger.unknown}
    made |= {"wrong": whole.count(WRONG), "errors": whole.count(ERROR), "worker_losses": aim.losses() - losses}
    made |= {"recovery_s": recovery(after, start + int(seconds * SECOND))}
    return made | sizes | {"generator_behind_ms_p99": p(found.behind_ms(), 99), "error_reasons": ledger.reasons}


def summary(found: Columns, capacity: float, seconds: float) -> dict[str, Any]:
    """Return the keys of a row that describe the load itself."""
    offered = len(found.outcome) - found.count(NOT_OFFERED)
    in_time, successes = int(found.in_time().sum()), found.count(SUCCESS)
    refusals, latencies = found.ms(REFUSED), found.ms(SUCCESS)
    return {
        "offered_per_s": round(offered / seconds, 1),
        "capacity_per_s": round(capacity, 1),
        "in_time_of_offered": share(in_time, offered),
        "in_time_of_capacity": share(in_time / seconds, min(offered / seconds, capacity)),
        "late_successes": share(found.late(), successes),
        "success_ms_p50": p(latencies, 50) if latencies else None,
        "success_ms_p99": p(latencies, 99) if latencies else None,
        "refusal_ms_p50": p(refusals, 50) if refusals else None,
        "refusal_ms_p99": p(refusals, 99) if refusals else None,
        "refused": len(refusals),
        "timed_out": found.count(TIMED_OUT),
        "broken": found.count(BROKEN),
        "expired_in_client": found.count(EXPIRED, IN_CLIENT),
    }


def share(part: float, whole: float) -> float:
    """Return ``part`` divided by ``whole``, or 0 if ``whole`` is 0."""
    return round(part / whole, 4) if whole else 0.0


def recovery(after: Columns, end: int) -> float | None:
    """Return the seconds from ``end`` until `WINDOWS` successive windows are in time, or None if this never happens."""
    window = (after.due - end) // WINDOW
    in_time, good = after.in_time(), 0
    for at in range(int(window[-1]) + 1 if len(window) else 0):
        chosen = (window == at) & (after.outcome != NOT_OFFERED)
        good = good + 1 if in_time[chosen].sum() >= WINDOW_SHARE * chosen.sum() else 0
        if good == WINDOWS:
            return round((at + 1 - WINDOWS) * WINDOW / SECOND, 3)
    return None


def added_ms(aim: Target, seconds: float, rounds: int) -> float | None:
    """Measure the time that the server adds to one network with one request in flight.

    The server and bare ONNX Runtime are measured in turns.
    """
    added = []
    for _ in range(rounds):
        alone = aim.size.bare[0].run(seconds, SERVER)
        _, latencies = closed(aim, 1, seconds, aim.size.templates[:1])
        if latencies:
            added.append(median(latencies) - median(alone))
    return median(added) if added else None


def measure(given: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Measure and return the results of all protocols and sizes."""
    results: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for name in given.sizes:
        size = small(root) if name == "small" else large(root, given.each)
        for protocol in given.protocols:
            bare = size.bare_rate(given.seconds / 2)
            results.setdefault("bare_onnx_per_s", {})[f"{protocol}_{size.name}"] = round(bare, 1)
            with target(protocol, size, root) as aim:
                closed(aim, IN_FLIGHT if size.name == "small" else 4, given.seconds / 2)  # warm-up
                if size.name == "small":
                    capacity = max(MIN_CAPACITY, closed(aim, IN_FLIGHT, given.seconds)[0])
                    results[f"{protocol}_small_requests_per_s"] = round(capacity, 1)
                else:
                    capacity = bare
                    results[f"{protocol}_large_added_ms"] = added_ms(aim, given.seconds / 2, given.rounds)
                rows += [row(aim, load, capacity, given.seconds) for load in given.loads]
    return results | {"rows": rows}


def autogroup() -> bool:
    """Return whether the kernel divides cores among sessions first, and then among threads (sched(7))."""
    setting = Path("/proc/sys/kernel/sched_autogroup_enabled")
    return setting.exists() and setting.read_text().strip() == "1"


def main() -> None:
    """Run the benchmark, and print and write the results."""
    parser = options(__doc__, seconds=5.0, rounds=3)
    parser.add_argument("--protocols", nargs="+", choices=tuple(WIRES), default=tuple(WIRES), help="default: all")
    parser.add_argument(
        "--sizes", nargs="+", choices=("small", "large"), default=("small", "large"), help="default: both"
    )
    parser.add_argument(
        "--loads", nargs="+", type=float, default=LOADS, help="multiples of the capacity (default: 0.8 1 1.5 3 10)"
    )
    parser.add_argument(
        "--each", type=int, default=4, help="squeezenets, and shufflenets, of the large mix (default: 4)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        tell(machine() | {"autogroup": autogroup()} | measure(given, Path(directory)), given.json)


if __name__ == "__main__":
    main()
