"""Starts fleets for tests, sends them requests, and checks every response."""

import http.client
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

import onnx_graphs
from cli.processes import QUICK
from clockwork.ray import Fleet, FleetStatus, start
from clockwork.ray.spec import NAMESPACE

PATIENCE = 90.0
"""Time in seconds in which every expected change happens, also on a slow machine."""

INPUTS = np.random.default_rng(7).standard_normal((64, 32), dtype=np.float32)
EXPECTED: Any = next(iter(ReferenceEvaluator(onnx_graphs.dense()).run(None, {"x": INPUTS})))

NAMES = (f"fleet{number}" for number in count())


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    """Wait until the condition is true. Return its value."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"after {PATIENCE:g} s: {what}"
        time.sleep(0.05)
    return value


@contextmanager
def fleet(
    models: Path, workers: int | None = 2, names: Sequence[str] = ("dense.onnx",), **settings: Any
) -> Iterator[Fleet]:
    """Start a fleet on free ports. When the context ends, stop the fleet, and check that its processes have ended."""
    options = [option for option in QUICK if not option.startswith("--http")]
    given = {
        "name": next(NAMES),
        "model_root": str(models),
        "ports": {"clients": 0, "workers": 0, "http": 0},
        "controller_labels": {"role": "control"},
        "worker_labels": {"role": "work"},
        "controller_options": tuple(options),
    }
    running = start(names, workers=workers, timeout=PATIENCE, **(given | settings))
    try:
        yield running
        pids = pids_of(running.status())
    finally:
        running.stop()
    assert running.parts() == []
    for pid in pids:
        assert not is_running(pid)


def pids_of(status: FleetStatus) -> list[int]:
    return [part.pid for part in (status.controller, *status.workers) if part.pid is not None]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def actor(name: str) -> Any:
    import ray

    return ray.get_actor(name, namespace=NAMESPACE)


def actor_pid(child: int) -> int:
    """Return the process id of the actor of a child process."""
    return int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])


class Load:
    """Threads that send requests without a pause, and check each response.

    ``outcomes`` counts ``ok``, ``cut`` (the connection ended before a response) and the statuses of error responses.
    ``wrong`` describes responses with wrong outputs, with a wrong id, or without a request.
    """

    def __init__(self, fleet: Fleet, clients: int = 3) -> None:
        self.clients = clients
        self.outcomes: Counter[str] = Counter()
        self.errors: list[str] = []
        self.wrong: list[str] = []
        self._fleet = fleet
        self._address = fleet.status().addresses["http"]
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for client in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.continues()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a request has no response"
        assert not self.wrong

    def continues(self, more: int = 50) -> None:
        """Wait until further requests have been answered with outputs."""
        wanted = self.outcomes["ok"] + more
        eventually(
            f"{more} more responses; so far {self.outcomes} {self.errors[-3:]}", lambda: self.outcomes["ok"] >= wanted
        )

    def failed(self) -> int:
        return self.outcomes.total() - self.outcomes["ok"]

    def follow(self) -> None:
        """Use the present address of the controller from now on."""
        self._address = eventually("an address", lambda: self._fleet.status().addresses.get("http"))

    def _ask(self, client: int) -> None:
        connection, address = None, ""
        for number in count():
            if self._stop.is_set():
                break
            if connection is None or address != self._address:
                address = self._address
                connection = http.client.HTTPConnection(address, timeout=60)
            row = (client + 7 * number) % len(INPUTS)
            outcome = self._one(connection, f"{client}-{number}", row)
            with self._lock:
                self.outcomes[outcome] += 1
            if outcome == "cut":
                connection = None
                self._stop.wait(0.05)
        if connection is not None:
            connection.close()

    def _one(self, connection: http.client.HTTPConnection, id: str, row: int) -> str:
        data = {"name": "x", "shape": [1, 32], "datatype": "FP32", "data": INPUTS[row].tolist()}
        try:
            connection.request("POST", "/v2/models/dense/infer", json.dumps({"id": id, "inputs": [data]}))
            response = connection.getresponse()
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.errors.append(repr(error))
            return "cut"
        if response.status != 200:
            self.errors.append(str(body))
            return str(response.status)
        outputs = np.array(body["outputs"][0]["data"], np.float32)
        if body["id"] != id or not np.allclose(outputs, EXPECTED[row], rtol=1e-3, atol=1e-4):
            self.wrong.append(f"request {id}: {body}")
        return "ok"


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)
