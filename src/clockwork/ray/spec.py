"""Describes a fleet: the arguments of its commands, and the resources that its processes need."""

import re
from typing import Any, Final

from msgspec import Struct, field

from clockwork.errors import InvalidRequestError
from clockwork.net.address import CLIENT_PORT, WORKER_PORT
from clockwork.ray.sizing import Limits

NAMESPACE: Final = "clockwork"
"""Ray's namespace of all actors of Clockwork."""

DEFAULT_NAME: Final = "clockwork"
"""Default name of a fleet."""

DEFAULT_PORTS: Final = {"clients": CLIENT_PORT, "workers": WORKER_PORT, "http": 8000}
"""Default ports of the controller, by name. gRPC has no port by default."""

MAX_WORKERS: Final = 10_000
"""Limit of the number of workers of a fleet; a controller waits for at most this many."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_WORKER: Final = re.compile(r"(.+):worker-(\d+)")


class FleetSpec(Struct, frozen=True, kw_only=True):
    """A fleet as `start` describes it. A supervisor gets the specification when it is created.

    - ``models``: models to serve, as arguments of ``clockwork controller``
    - ``model_root``: directory of the models on every node with a worker
    - ``device``: ``cpu``, ``cuda`` or ``emulated``; ``devices`` is their number per worker
    - ``worker_cpus``: CPUs that Ray reserves for a worker; None means one for each thread of a device
    - ``controller_labels``, ``worker_labels``: label selectors of Ray, for the nodes of the processes
    - ``pack``: whether workers may share a node although another node is free
    - ``ports``: port by name: clients, workers, http, grpc. Port 0 picks a free port; a missing port is not opened.
    - ``controller_options``, ``worker_options``: further arguments of the commands
    - ``config``: content of a configuration file, or an empty text
    - ``autoscale``: smallest and largest number of workers of a fleet that follows its load; None means that only
      `Fleet.scale` changes the number
    - ``drain_time``: time in seconds that a process has to finish its work before it is killed
    - ``token``: secret that workers present to the controller
    """

    name: str = DEFAULT_NAME
    models: tuple[str, ...] = ()
    model_root: str = "."
    device: str = "cpu"
    devices: int = 1
    threads_per_device: int = 1
    profiles: tuple[str, ...] = ()
    worker_cpus: float | None = None
    controller_cpus: float = 1
    controller_labels: dict[str, str] = {}
    worker_labels: dict[str, str] = {}
    pack: bool = False
    ports: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))
    state_dir: str = ""
    controller_options: tuple[str, ...] = ()
    worker_options: tuple[str, ...] = ()
    config: str = ""
    autoscale: tuple[int, int] | None = None
    drain_time: float = 15
    token: str = ""

    def check(self, workers: int) -> None:
        """Check the settings that Ray or the commands would report less clearly.

        Raises:
            clockwork.errors.InvalidRequestError: a setting is wrong.
        """
        if not _NAME.fullmatch(self.name):
            raise InvalidRequestError(
                f"invalid fleet name {self.name!r}; use up to 64 letters, digits, dots, hyphens and underscores"
            )
        if self.autoscale is not None:
            least, most = self.autoscale
            if not 1 <= least <= most <= MAX_WORKERS:
                raise InvalidRequestError(
                    f"the limits {least}:{most} of autoscaling are not possible; use 1 <= MIN <= MAX <= {MAX_WORKERS}"
                )
            if not least <= workers <= most:
                raise InvalidRequestError(f"{workers} workers are outside the limits {least}:{most} of autoscaling")
        if not 1 <= workers <= MAX_WORKERS:
            raise InvalidRequestError(f"{workers} workers are not possible; use 1 to {MAX_WORKERS}")
        if self.device not in ("cpu", "cuda", "emulated"):
            raise InvalidRequestError(f"invalid kind of device {self.device!r}; expected one of: cpu, cuda, emulated")
        if (self.device == "emulated") != bool(self.profiles):
            raise InvalidRequestError("emulated devices need a profile, and only emulated devices have one")
        if self.device == "cuda" and not any(it.startswith("--runtime=") for it in self.worker_options):
            raise InvalidRequestError(
                "GPUs need a runtime; add --worker-option=--runtime=onnx or --worker-option=--runtime=torch"
            )

    @property
    def limits(self) -> Limits | None:
        """The limits of the number of workers, if the fleet follows its load."""
        return None if self.autoscale is None else Limits(*self.autoscale)

    # --- names ---------------------------------------------------------------------------------------------------

    @property
    def controller(self) -> str:
        """Name of the controller's actor."""
        return controller_name(self.name)

    def worker(self, number: int) -> str:
        """Return the name of a worker's actor, which is also the name of the worker."""
        return f"{self.name}:worker-{number}"

    # --- commands ------------------------------------------------------------------------------------------------

    def controller_arguments(self, host: str) -> list[str]:
        """Return the arguments of ``clockwork controller`` on the node whose IP address is ``host``."""
        host = f"[{host}]" if ":" in host else host
        options = {"clients": "--listen", "workers": "--worker-listen", "http": "--http", "grpc": "--grpc"}
        addresses = [f"{options[name]}={host}:{port}" for name, port in sorted(self.ports.items())]
        if "http" not in self.ports:
            addresses.append("--http=none")
        state = [f"--state-dir={self.state_dir}"] if self.state_dir else []
        return [*addresses, *state, *self.controller_options, *self.models]

    def worker_arguments(self, name: str) -> list[str]:
        """Return the arguments of ``clockwork worker``."""
        arguments = [f"--name={name}", "--health=127.0.0.1:0", "--claim-cores"]
        if self.device == "emulated":
            arguments += [f"--emulate={self.devices}", *(f"--profile={profile}" for profile in self.profiles)]
        else:
            arguments += [f"--device={self.device}", f"--devices={self.devices}", f"--model-root={self.model_root}"]
            if self.device == "cpu":
                arguments.append(f"--threads-per-device={self.threads_per_device}")
        return [*arguments, *self.worker_options]

    # --- resources -----------------------------------------------------------------------------------------------

    def controller_resources(self) -> dict[str, Any]:
        """Return the options of Ray that place the controller."""
        return {"num_cpus": self.controller_cpus, "label_selector": dict(self.controller_labels)}

    def worker_resources(self) -> dict[str, Any]:
        """Return the options of Ray that place a worker. GPUs are whole, because a worker uses all memory of a GPU."""
        cpus = self.worker_cpus
        if cpus is None:
            cpus = self.devices * self.threads_per_device if self.device == "cpu" else 1
        options: dict[str, Any] = {"num_cpus": cpus, "label_selector": dict(self.worker_labels)}
        if self.device == "cuda":
            options["num_gpus"] = self.devices
        if not self.pack:
            options["scheduling_strategy"] = "SPREAD"
        return options


def bundle(resources: dict[str, Any]) -> dict[str, float]:
    """Return the resources of an actor as a bundle, the form in which Ray's autoscaler expects them."""
    amounts = {"CPU": resources["num_cpus"], "GPU": resources.get("num_gpus", 0)}
    return {name: amount for name, amount in amounts.items() if amount}


def controller_name(fleet: str) -> str:
    """Return the name of the actor of a fleet's controller."""
    return f"{fleet}:controller"


def worker_number(fleet: str, actor: str) -> int | None:
    """Return the number of a worker, or None if the actor is not a worker of the fleet."""
    found = _WORKER.fullmatch(actor)
    return int(found[2]) if found and found[1] == fleet else None
