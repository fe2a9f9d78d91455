"""Changes the number of workers of a fleet to the number that the controller wants, and requests nodes for them.

The controller's supervisor calls a `Sizer` every few seconds. `clockwork.ray.sizing` decides.
"""

import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from clockwork.ray.sizing import Limits, Sizing, Workers, change, target
from clockwork.ray.spec import FleetSpec, bundle

log = logging.getLogger("clockwork.ray")


class Resizable(Protocol):
    """The methods of `clockwork.ray.fleet.Fleet` that a `Sizer` calls."""

    def workers(self) -> list[str]:
        """Return the names of the workers' actors, by their numbers."""

    def add_workers(self, count: int) -> None:
        """Create the actors of further workers."""

    def surplus(self, count: int, workers: Sequence[str]) -> list[str]:
        """Return the workers whose end costs least."""

    def end_parts(self, names: Sequence[str], spec: FleetSpec) -> None:
        """Let the processes of these parts finish their work, then remove their actors."""


class Sizer:
    """Follows the wanted number of devices of one fleet. One thread calls `follow`."""

    def __init__(self, make_fleet: Callable[[], Resizable], spec: FleetSpec, limits: Limits) -> None:
        """``make_fleet`` returns an object that controls the fleet. Each thread needs its own."""
        self._make_fleet, self._spec, self._limits = make_fleet, spec, limits
        self._fleet = make_fleet()
        self._ending: frozenset[str] = frozenset()  #: workers that `_end` ends
        self._thread: threading.Thread | None = None  #: runs `_end`
        self._requested: int | None = None  #: number of workers for which nodes were requested

    def sizing(self, devices: int | None, why: str) -> Sizing:
        """Return the wanted size of the fleet, from the controller's last report."""
        workers = target(devices, self._spec.devices, self._limits) if devices else None
        least, most = self._limits
        return Sizing(least=least, most=most, devices=devices or None, workers=workers, why=why)

    def follow(self, devices: int | None, *, may_end: bool) -> None:
        """Start or end workers, and request nodes for the wanted workers from Ray's autoscaler.

        New workers start in the background. A thread waits for workers that finish their work.

        Args:
            devices: number of wanted devices; None if it is not known.
            may_end: whether the wanted number is reliable enough to end workers.
        """
        if self._thread is not None and not self._thread.is_alive():
            self._ending, self._thread = frozenset(), None
        present = [name for name in self._fleet.workers() if name not in self._ending]
        workers = Workers(len(present), len(self._ending))
        more = change(devices, self._spec.devices, workers, self._limits, may_end=may_end)
        if more > 0:
            log.warning("%s: starting workers: %d; wanted devices: %s", self._spec.name, more, devices)
            self._request(len(present) + more)
            self._fleet.add_workers(more)
        elif more < 0:
            surplus = self._fleet.surplus(-more, present)
            log.warning("ending workers: %s; wanted devices: %s", ", ".join(surplus), devices)
            self._end(surplus)
            self._request(len(present) + more)
        else:
            self._request(len(present))

    def _end(self, names: Sequence[str]) -> None:
        self._ending = frozenset(names)
        end, arguments = self._make_fleet().end_parts, (names, self._spec)
        self._thread = threading.Thread(target=end, args=arguments, name="clockwork-end", daemon=True)
        self._thread.start()

    def _request(self, workers: int) -> None:
        if workers != self._requested:
            request_nodes(self._spec, workers)
            self._requested = workers


def request_nodes(spec: FleetSpec, workers: int | None) -> None:
    """Request nodes for a controller and workers from Ray's autoscaler. None withdraws the request.

    Ray keeps the last request of the cluster, even after the caller has ended. Ray's autoscaler adds nodes for it, and
    keeps nodes that it needs. Without an autoscaler, the request has no effect.
    """
    from ray.autoscaler.sdk import request_resources

    needs = [] if workers is None else [spec.controller_resources(), *[spec.worker_resources()] * workers]
    needs = [need for need in needs if bundle(need)]
    bundles, labels = [bundle(need) for need in needs], [need["label_selector"] for need in needs]
    selectors = {}
    if any(labels) and "bundle_label_selectors" in inspect.signature(request_resources).parameters:
        selectors["bundle_label_selectors"] = labels
    request_resources(bundles=bundles, **selectors)
