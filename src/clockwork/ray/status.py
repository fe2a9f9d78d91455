"""The status of a fleet and of its processes."""

from typing import Any

from msgspec import Struct

from clockwork.ray.sizing import Sizing


class PartStatus(Struct, frozen=True, kw_only=True):
    """The status of the controller or of a worker.

    - ``state``: ``ready``; ``starting`` if its process runs but is not ready; ``restarting`` if the process died and is
      started again soon; ``ending`` if it finishes its work; ``refused`` if the node has other versions; ``pending`` if
      the actor does not answer, for example because no node has the resources
    - ``node``: IP address of the node; ``node_id`` is Ray's id of the node
    - ``restarts``: number of times that the supervisor has restarted the process
    - ``reason``: why the process is not ready; empty if unknown
    - ``log``: path of the log on the node
    - ``addresses``: addresses of the ports, by name
    - ``sizing``: for the controller of a fleet that follows its load, the wanted size of the fleet
    """

    name: str
    state: str = "pending"
    node: str = ""
    node_id: str = ""
    pid: int | None = None
    restarts: int = 0
    reason: str = ""
    log: str = ""
    addresses: dict[str, str] = {}
    sizing: Sizing | None = None


class FleetStatus(Struct, frozen=True, kw_only=True):
    """The status of a fleet. ``addresses`` are those of the controller, by name: clients, workers, http, grpc."""

    name: str
    controller: PartStatus
    workers: tuple[PartStatus, ...] = ()

    @property
    def addresses(self) -> dict[str, str]:
        """Addresses of the controller's ports, by name."""
        return self.controller.addresses

    @property
    def sizing(self) -> Sizing | None:
        """The wanted size of the fleet, if the fleet follows its load."""
        return self.controller.sizing

    @property
    def is_ready(self) -> bool:
        """Whether the controller and all workers are ready."""
        return all(part.state == "ready" for part in (self.controller, *self.workers))

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain data, for JSON."""
        from msgspec import to_builtins

        status: dict[str, Any] = to_builtins(self)
        return {**status, "ready": self.is_ready}
