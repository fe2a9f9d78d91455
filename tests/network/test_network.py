"""A controller, two workers and a client on four hosts: delay, loss, other clocks, a worker that is cut off.

The devices are emulated, so the outputs are zeros. The SLO is long, so no request may fail.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cli.processes import Process, clockwork
from network.hosts import Network, clocks_differ, missing

WHY = missing()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY or "the hosts can be made")

PATIENCE = 120.0
"""Seconds after which a condition counts as never true."""

MODELS = ["small-1", "small-2", "small-3", "small-4"]
TIMES = {
    "load_weights": {"samples": [4_000_000]},
    "infer": {"1": {"samples": [2_000_000]}, "2": {"samples": [3_000_000]}},
}
STATE = {
    "models": [
        {
            "info": {
                "name": "small",
                "digest": "d",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
                "batchable": True,
                "weights_pages": 1,
            },
            "profiles": {"gpu": TIMES},
        }
    ]
}


class Client:
    """The program of a client on a host."""

    def __init__(self, words: tuple[str, ...], address: str) -> None:
        program = Path(__file__).with_name("client_program.py")
        self._process = subprocess.Popen(
            [*words, sys.executable, str(program), address, *MODELS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client ended with {self._process.wait(30)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait(30)
        self._process.stdin.close()
        self._process.stdout.close()


class Fleet:
    """The processes on the hosts."""

    def __init__(self, network: Network, client: Client, controller: Process) -> None:
        self.network = network
        self.client = client
        self.controller = controller

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first status for which the condition is true."""
        ends = time.monotonic() + PATIENCE
        while True:
            status = self.client.do("status")
            if condition(status):
                return status
            assert time.monotonic() < ends, f"{status}\n" + "\n".join(self.controller.err.seen[-20:])
            time.sleep(0.02)

    def whole(self) -> dict[str, Any]:
        """Wait until both workers serve."""
        return self.until(lambda status: status["ready"] == {"w1": True, "w2": True})

    def more(self, worker: str, batches: int) -> dict[str, Any]:
        """Wait until a worker has executed more batches than now."""
        before = self.client.do("status")["batches"][worker]
        return self.until(lambda status: status["batches"].get(worker, 0) >= before + batches)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Start a fleet. The clocks of the workers are ahead by a day, and behind by ten minutes if possible."""
    directory = tmp_path_factory.mktemp("network")
    (directory / "state.json").write_text(json.dumps(STATE))
    behind = min(600, int(time.clock_gettime(time.CLOCK_MONOTONIC) / 2))
    clocks = clocks_differ()
    offsets = {"controller": 0, "w1": 86_400 * clocks, "w2": -behind * clocks, "client": 0}
    with ExitStack() as stack:
        network = Network(offsets)
        stack.callback(network.close)
        at = network.hosts["controller"].address
        controller = stack.enter_context(
            clockwork(
                *("controller", "small=small:4", f"--listen={at}:12346", f"--worker-listen={at}:12345"),
                *("--workers=2", "--http=none", "--no-profile-cache", "--profile-seconds=0.02", "--max-batch=2"),
                prefix=network.hosts["controller"].command(),
            )
        )
        controller.err.wait_for("listening for clients on")
        for name in ("w1", "w2"):
            stack.enter_context(
                clockwork(
                    *("worker", f"--controller={at}:12345", f"--name={name}", "--emulate=1"),
                    f"--profile={directory / 'state.json'}",
                    prefix=network.hosts[name].command(),
                )
            )
        controller.address()
        client = Client(network.hosts["client"].command(), f"{at}:12346")
        stack.callback(client.close)
        assert client.do("connect") == {"connected": True}
        yield Fleet(network, client, controller)


@pytest.fixture
def load(fleet: Fleet) -> Iterator[Fleet]:
    """Send requests to a whole fleet during the test. At the end, check that each was answered once and right."""
    before = fleet.whole()["answered"]
    fleet.client.do("start", loops=8)
    yield fleet
    counts = fleet.client.do("stop")
    assert counts["faults"] == []
    assert counts["right"] == counts["sent"]
    after = fleet.until(lambda status: status["answered"] >= before + counts["sent"])
    assert after["answered"] == before + counts["sent"]


def test_requests_are_answered_over_a_slow_network_that_loses_frames(load: Fleet) -> None:
    load.network.delay, load.network.loss = 0.003, 0.01
    try:
        for worker in ("w1", "w2"):
            load.more(worker, 50)
        load.until(lambda status: load.network.lost >= 20)
    finally:
        load.network.delay = load.network.loss = 0.0


@pytest.mark.skipif(not WHY and not clocks_differ(), reason="the kernel has no time namespaces, or unshare is too old")
def test_workers_whose_clocks_differ_by_a_day_execute_in_their_windows(load: Fleet) -> None:
    for worker in ("w1", "w2"):
        load.more(worker, 50)


def test_a_worker_that_is_cut_off_is_not_used_and_returns_when_the_network_heals(load: Fleet) -> None:
    load.more("w2", 10)
    load.network.cut = {"w2"}
    try:
        silent = load.until(lambda status: not status["ready"].get("w2", False))
        load.until(lambda status: status["right"] >= silent["right"] + 100)
        during = load.client.do("status")
        assert during["ready"]["w1"]
        assert during["batches"].get("w2", silent["batches"].get("w2", 0)) == silent["batches"].get("w2", 0)
    finally:
        load.network.cut = set()
    load.whole()
    load.more("w2", 10)
    load.more("w1", 10)


def test_a_worker_that_is_cut_off_until_its_connection_ends_connects_again_and_serves(load: Fleet) -> None:
    load.more("w2", 10)
    losses = len([line for line in load.controller.err.seen if "worker w2 is lost" in line])
    load.network.cut = {"w2"}
    try:
        load.controller.err.wait_for("worker w2 is lost", count=losses + 1)
        gone = load.until(lambda status: "w2" not in status["ready"])
        load.until(lambda status: status["right"] >= gone["right"] + 100)
    finally:
        load.network.cut = set()
    load.whole()
    load.more("w2", 10)
    load.more("w1", 10)
