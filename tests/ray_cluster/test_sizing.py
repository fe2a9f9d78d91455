"""A fleet on a Ray cluster follows its load: it grows under load, and shrinks when the load ends."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockwork.client import Client
from clockwork.errors import ClockworkError, InvalidRequestError
from clockwork.ray import Fleet, Sizing
from clockwork.ray.fleet import FleetController
from clockwork.units import SECOND
from ray_cluster.fleets import PATIENCE, eventually, fleet

pytestmark = pytest.mark.timeout(300)

FACTOR = 20
"""Factor of the times of the profile: a request takes 55 ms of a device, so that few requests are a high load."""

SHORT = "import clockwork.controller.device_need as need\nneed.HOLD = need.START = 5\n"
"""Lets a controller want fewer devices five seconds after a peak."""


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fleets shrink a few seconds after a peak, and also soon after their start."""
    (tmp_path / "sitecustomize.py").write_text(SHORT)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])

    class Impatient(FleetController):  # a class in a function is sent to the actor's process
        settling = 5 * SECOND

        def _environment(self) -> dict[str, str]:
            return {"PYTHONPATH": path}

    monkeypatch.setattr("clockwork.ray.fleet.FleetController", Impatient)


class Callers:
    """Threads with one client each. A caller sends its next request after the response to the previous one."""

    def __init__(self, address: str) -> None:
        self.sent, self.answered = 0, 0
        self.errors: list[str] = []
        self._address = address
        self._lock = threading.Lock()

    @contextmanager
    def calling(self, callers: int, pause: float) -> Iterator[None]:
        """Run threads that wait ``pause`` seconds after each response. When the context ends, await all responses."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._call, args=(stop, pause)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive(), "a request has no response"

    def _call(self, stop: threading.Event, pause: float) -> None:
        inputs = {"data": np.ones((1, 3, 224, 224), np.float32)}
        with Client(self._address) as client:
            while not stop.is_set():
                with self._lock:
                    self.sent += 1
                try:
                    outputs = client.model("resnet50-v100").infer(inputs, slo=4)
                except ClockworkError as error:
                    self.errors.append(str(error))
                else:
                    with self._lock:
                        self.answered += outputs["prob"].shape == (1, 1000)
                stop.wait(pause)


def sizing(running: Fleet) -> Sizing:
    found = running.status().sizing
    assert found is not None
    return found


def requested_nodes() -> list[dict[str, float]]:
    """Return the bundles of the last request to Ray's autoscaler."""
    import ray
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    assert ray.is_initialized()
    bundles: list[dict[str, float]] = json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))
    return bundles


@pytest.mark.usefixtures("impatient")
def test_a_fleet_grows_under_load_and_shrinks_when_idle_and_answers_every_request_once(
    cluster: Any, models: Path
) -> None:
    settings = {
        "device": "emulated",
        "profiles": ("resnet50-v100",),
        "worker_options": (f"--emulate-factor={FACTOR}",),
        "controller_options": ("--profile-seconds=0.1", "--max-batch=1", "--no-profile-cache"),
    }
    with fleet(models, None, ["resnet50-v100"], autoscale=(1, 2), **settings) as running:
        assert len(running.workers()) == 1
        callers = Callers(running.status().addresses["clients"])
        with callers.calling(6, 0.0):
            eventually("a second worker serves", lambda: ready_workers(running) == 2)
            assert sizing(running).workers == 2
            assert requested_nodes() == [{"CPU": 1}] * 3
        with callers.calling(1, 0.2):
            eventually("one worker is left", lambda: len(running.workers()) == 1)
            assert sizing(running).workers == 1
            assert requested_nodes() == [{"CPU": 1}] * 2
        assert not callers.errors
        assert callers.answered == callers.sent
        with pytest.raises(InvalidRequestError, match=r"follows its load with 1 to 2 workers; to set the number, stop"):
            running.scale(2)
    assert requested_nodes() == []


def ready_workers(running: Fleet) -> int:
    return sum(worker.state == "ready" for worker in running.status().workers)
