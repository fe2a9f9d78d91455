"""Starts fleets on a Ray cluster, and changes them. Any process of the cluster can control a fleet by its name."""

import secrets
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from clockwork.clock import MonotonicClock
from clockwork.errors import InvalidRequestError, ServerError
from clockwork.ray.connection import connected
from clockwork.ray.sizer import request_nodes
from clockwork.ray.spec import DEFAULT_NAME, MAX_WORKERS, NAMESPACE, FleetSpec, controller_name, worker_number
from clockwork.ray.status import FleetStatus, PartStatus
from clockwork.ray.supervisor import ControllerSupervisor, Supervisor, WorkerSupervisor
from clockwork.ray.versions import own_versions
from clockwork.units import SECOND

START_TIME: Final = 300.0
"""Default limit of the time in seconds that `start` waits for the fleet to be ready."""

MOVE_TIME: Final = 60.0
"""Time in seconds that `Fleet.drain` waits for a replacement before it ends the worker on the drained node."""

ANSWER_TIME: Final = 5.0
"""Time in seconds that an actor has to answer."""

END_TIME: Final = 10.0
"""Time in seconds that an actor has to answer after its child process had its time to end."""

POLL: Final = 0.2
"""Time in seconds between two looks at the status."""

MAX_QUICK_RESTARTS: Final = 3
"""Number of restarts of a process that has never been ready after which `start` fails."""

NODE_LABEL: Final = "ray.io/node-id"
"""Ray's label with the id of a node."""

_PLACING: Final = "Ray has not placed it yet; a node with free resources may be missing"


class StartFailedError(ServerError):
    """Raised if a process of a fleet cannot run, for example because an option is wrong."""


def start(
    models: Iterable[str] = (),
    *,
    workers: int | None = None,
    address: str = "auto",
    timeout: float | None = START_TIME,
    **settings: Any,
) -> "Fleet":
    """Start a fleet and return it.

    Args:
        models: models to serve, as arguments of ``clockwork controller``.
        workers: number of workers at the start; by default 1, or the smallest number of ``autoscale``.
        address: address of the Ray cluster; ``auto`` finds the cluster of this machine.
        timeout: time in seconds to wait until the fleet is ready; None means not to wait.
        settings: further fields of `FleetSpec`.

    Raises:
        clockwork.errors.InvalidRequestError: a setting is wrong, Ray is not installed, or a fleet with this name
            exists.
        StartFailedError: a process does not start. The fleet is stopped.
        clockwork.errors.ServerError: Ray cannot be reached, or the fleet is not ready in time. In the second case, the
            fleet continues to start.
    """
    spec = FleetSpec(models=tuple(models), token=secrets.token_urlsafe(), **settings)
    if workers is None:
        workers = 1 if spec.limits is None else spec.limits.least
    spec.check(workers)
    fleet = Fleet(connected(address), spec.name)
    if fleet.parts():
        raise InvalidRequestError(
            f"a fleet with the name {spec.name} exists already; scale it, stop it, or use another name"
        )
    arguments = (msgspec.json.encode(spec), own_versions())
    fleet.create(FleetController, spec.controller, spec.controller_resources(), arguments)
    for number in range(1, workers + 1):
        fleet.create(WorkerSupervisor, spec.worker(number), spec.worker_resources(), arguments)
    if timeout is not None:
        try:
            fleet.wait_until_ready(timeout)
        except StartFailedError:
            fleet.stop()
            raise
    return fleet


def attach(name: str = DEFAULT_NAME, *, address: str = "auto") -> "Fleet":
    """Return a fleet that runs already.

    Raises:
        clockwork.errors.InvalidRequestError: there is no fleet with this name, or Ray is not installed.
        clockwork.errors.ServerError: Ray cannot be reached.
    """
    fleet = Fleet(connected(address), name)
    if not fleet.parts():
        raise InvalidRequestError(f"no fleet with the name {name} runs on this cluster; start one: clockwork ray start")
    return fleet


class Fleet:
    """A fleet on a Ray cluster. The fleet continues to run when this process ends."""

    def __init__(self, ray: Any, name: str) -> None:
        """Use `start` or `attach` instead."""
        self._ray = ray
        self.name = name
        self._asked: dict[str, tuple[Any, Any]] = {}  #: for each part, its actor and the question without an answer

    def status(self) -> FleetStatus:
        """Return the status of all processes. A process whose actor does not answer within 5 s is ``pending``."""
        names = self.parts()
        questions = {name: self._question(name) for name in names}
        waiting = [question for question in questions.values() if question is not None]
        if waiting:
            self._ray.wait(waiting, num_returns=len(waiting), timeout=ANSWER_TIME)
        parts = {name: self._answer(name, question) for name, question in questions.items()}
        controller = parts.pop(controller_name(self.name), PartStatus(name=controller_name(self.name)))
        return FleetStatus(name=self.name, controller=controller, workers=tuple(parts.values()))

    def scale(self, workers: int) -> None:
        """Change the number of workers.

        New workers start in the background. Surplus workers finish their actions before they end; the controller
        gives their remaining requests to other workers.

        Raises:
            clockwork.errors.InvalidRequestError: the number is not possible, or the fleet follows its load.
        """
        if not 0 <= workers <= MAX_WORKERS:
            raise InvalidRequestError(f"{workers} workers are not possible; use 0 to {MAX_WORKERS}")
        spec, _ = self._specification()
        if spec.limits is not None:
            least, most = spec.limits
            raise InvalidRequestError(
                f"fleet {self.name} follows its load with {least} to {most} workers; to set the number, stop the fleet "
                f"and start it without --autoscale"
            )
        present = self.workers()
        self.add_workers(workers - len(present))
        if workers < len(present):
            self.end_parts(self.surplus(len(present) - workers, present), spec)

    def drain(self, node: str) -> tuple[str, ...]:
        """Move all processes away from a node, and return their names. ``node`` is an IP address or an id of Ray.

        For each worker, a worker on another node is started first. If it is not ready after a minute, the worker is
        ended nevertheless. The controller, if it runs on the node, is moved last: its clients have to connect again.

        Raises:
            clockwork.errors.InvalidRequestError: no process of the fleet runs on the node.
        """
        status = self.status()
        parts = [part for part in (*status.workers, status.controller) if part.node_id]
        moved = [part for part in parts if node == part.node or part.node_id.startswith(node)]
        if not moved or not node:
            nodes = ", ".join(sorted({part.node for part in parts}))
            raise InvalidRequestError(f"no process of {self.name} runs on node {node!r}; its nodes are: {nodes}")
        spec, arguments = self._specification()
        elsewhere = {NODE_LABEL: f"!in({', '.join(sorted({part.node_id for part in moved}))})"}
        workers = [part.name for part in moved if part is not status.controller]
        if workers:
            resources = spec.worker_resources()
            resources["label_selector"] |= elsewhere
            self._hold_size(spec, MOVE_TIME + spec.drain_time + END_TIME)
            replacements = self._free_names(spec, len(workers))
            for name in replacements:
                self.create(WorkerSupervisor, name, resources, arguments)
            self._wait_for(replacements, MOVE_TIME)
            self.end_parts(workers, spec)
            self._hold_size(spec, 0)
        if status.controller in moved:
            resources = spec.controller_resources()
            resources["label_selector"] |= elsewhere
            self.end_parts([spec.controller], spec)
            self.create(FleetController, spec.controller, resources, arguments)
        return tuple(part.name for part in moved)

    def stop(self) -> None:
        """End the fleet. The controller answers its pending requests first. If the fleet has ended, do nothing."""
        names, controller = self.parts(), controller_name(self.name)
        if not names:
            return
        try:
            spec, _ = self._specification()
        except ServerError:  # no process runs
            spec = FleetSpec(name=self.name)
        self.end_parts([name for name in names if name == controller], spec)
        self.end_parts([name for name in self.parts() if name != controller], spec)
        if spec.limits is not None:
            request_nodes(spec, None)

    def wait_until_ready(self, timeout: float = START_TIME) -> FleetStatus:
        """Wait until the controller serves its models and all workers are ready. Return the status.

        If the fleet has no models yet, the controller only has to listen.

        Raises:
            StartFailedError: a process cannot run.
            clockwork.errors.ServerError: the fleet is not ready in time.
        """
        spec, _ = self._specification(timeout)
        clock, pause = MonotonicClock(), threading.Event()
        end = clock.now() + int(timeout * SECOND)
        while True:
            status = self.status()
            parts = (status.controller, *status.workers)
            waiting = [part for part in parts if part.state != "ready"]
            if not spec.models and status.addresses:
                waiting = [part for part in waiting if part is not status.controller]
            if not waiting:
                return status
            for part in waiting:
                if part.state in ("failed", "refused") or part.restarts >= MAX_QUICK_RESTARTS:
                    log = f" (log: {part.log} on {part.node})" if part.log else ""
                    raise StartFailedError(f"{part.name} does not start: {part.reason}{log}")
            if clock.now() > end:
                states = ", ".join(f"{part.name} is {part.state}" for part in waiting)
                why = next((f": {part.reason}" for part in waiting if part.reason), "")
                raise ServerError(f"fleet {self.name} is not ready after {timeout:g} s; {states}{why}")
            pause.wait(POLL)

    # --- actors --------------------------------------------------------------------------------------------------

    def parts(self) -> list[str]:
        """Return the names of the fleet's actors: the controller, then the workers by their numbers."""
        listed = self._ray.util.list_named_actors(all_namespaces=True)
        names = {actor["name"] for actor in listed if actor["namespace"] == NAMESPACE}
        workers = [(number, name) for name in names if (number := worker_number(self.name, name)) is not None]
        controller = controller_name(self.name)
        return [*([controller] if controller in names else []), *(name for _, name in sorted(workers))]

    def create(
        self, kind: type[Supervisor], name: str, resources: dict[str, Any], arguments: tuple[bytes, dict[str, str]]
    ) -> None:
        """Create the actor of a part.

        Raises:
            clockwork.errors.InvalidRequestError: an actor with this name exists, or the resources are not valid.
        """
        options = self._ray.remote(kind).options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            max_concurrency=8,
            runtime_env={"env_vars": CHILDREN_END_THEMSELVES},
            **resources,
        )
        try:
            options.remote(name, *arguments)
        except ValueError as error:
            raise InvalidRequestError(f"cannot create {name}: {error}") from error

    def workers(self) -> list[str]:
        """Return the names of the workers' actors, by their numbers."""
        return [name for name in self.parts() if worker_number(self.name, name) is not None]

    def add_workers(self, count: int) -> None:
        """Create the actors of further workers."""
        spec, arguments = self._specification()
        for name in self._free_names(spec, count):
            self.create(WorkerSupervisor, name, spec.worker_resources(), arguments)

    def surplus(self, count: int, workers: Sequence[str]) -> list[str]:
        """Return the workers whose end costs least: those that end already, then those that are not ready."""
        states = {part.name: part.state for part in self.status().workers}
        ranks = {"ending": 0, "ready": 2}
        order = sorted(
            workers, key=lambda name: (ranks.get(states.get(name, ""), 1), -(worker_number(self.name, name) or 0))
        )
        return order[:count]

    def end_parts(self, names: Sequence[str], spec: FleetSpec) -> None:
        """Let the processes of these parts finish their work at the same time, then remove their actors."""
        status = self.status()
        running = {part.name for part in (status.controller, *status.workers) if part.node}
        actors, ends = [], []
        for name in names:
            try:
                actors.append(self._actor(name))
            except ValueError:  # the actor has just ended
                continue
            if name in running:
                ends.append(actors[-1].end.remote())
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=spec.drain_time + END_TIME)
        for actor in actors:
            self._ray.kill(actor, no_restart=True)

    def _hold_size(self, spec: FleetSpec, duration: float) -> None:
        """Let a fleet that follows its load keep its size for this time, in seconds."""
        if spec.limits is not None:
            with suppress(ValueError):  # the controller has no actor
                held = self._actor(spec.controller).hold_size.remote(duration)
                self._ray.wait([held], timeout=ANSWER_TIME)

    def _actor(self, name: str) -> Any:
        return self._ray.get_actor(name, namespace=NAMESPACE)

    def _free_names(self, spec: FleetSpec, count: int) -> list[str]:
        used = {worker_number(self.name, name) for name in self.parts()}
        free = (number for number in range(1, MAX_WORKERS + len(used) + 1) if number not in used)
        return [spec.worker(next(free)) for _ in range(count)]

    def _specification(self, timeout: float = ANSWER_TIME) -> tuple[FleetSpec, tuple[bytes, dict[str, str]]]:
        """Return what the fleet was started with, from the first actor that answers."""
        questions = []
        for name in self.parts():
            try:
                questions.append(self._actor(name).arguments.remote())
            except ValueError:  # the actor has just ended
                continue
        done = self._ray.wait(questions, num_returns=1, timeout=timeout)[0] if questions else []
        try:
            if done:
                spec, versions = self._ray.get(done[0])
                return msgspec.json.decode(spec, type=FleetSpec), (spec, versions)
        except self._ray.exceptions.RayError as error:
            raise ServerError(f"cannot reach fleet {self.name}: {_last_line(error)}") from error
        raise ServerError(f"no process of fleet {self.name} answers; {_PLACING}")

    def _question(self, name: str) -> Any:
        """Ask an actor for its status, unless an earlier question has no answer yet."""
        try:
            actor = self._actor(name)
        except ValueError:  # the actor has just ended
            return None
        asked = self._asked.get(name)
        if asked is None or asked[0] != actor._actor_id:  # noqa: SLF001 - Ray has no public id of an actor
            asked = self._asked[name] = (actor._actor_id, actor.status.remote())  # noqa: SLF001
        return asked[1]

    def _answer(self, name: str, question: Any) -> PartStatus:
        exceptions = self._ray.exceptions
        if question is None:
            return PartStatus(name=name, reason=_PLACING)
        try:
            answer = self._ray.get(question, timeout=0)
        except exceptions.GetTimeoutError:
            return PartStatus(name=name, reason=_PLACING)
        except exceptions.RayError as error:
            self._asked.pop(name, None)
            if getattr(error, "actor_init_failed", False):
                return PartStatus(name=name, state="failed", reason=_last_line(error))
            return PartStatus(name=name, state="restarting", reason="Ray restarts its actor")
        self._asked.pop(name, None)
        return msgspec.convert(answer, PartStatus)

    def _wait_for(self, names: Sequence[str], timeout: float) -> None:
        """Wait until these workers are ready, but not longer than ``timeout``."""
        clock, pause = MonotonicClock(), threading.Event()
        end = clock.now() + int(timeout * SECOND)
        while clock.now() < end:
            ready = {part.name for part in self.status().workers if part.state == "ready"}
            if ready.issuperset(names):
                return
            pause.wait(POLL)


class FleetController(ControllerSupervisor):
    """The actor of a fleet's controller. It can change the fleet."""

    def _make_fleet(self) -> Fleet:
        import ray

        return Fleet(ray, self.spec.name)


CHILDREN_END_THEMSELVES: Final = {"RAY_kill_child_processes_on_worker_exit": "false"}
"""Environment of an actor. Ray would kill the child processes of an actor that ends. Instead, a child ends by itself
when the pipe from its actor is closed, after it has finished its work.
"""


def _last_line(error: BaseException) -> str:
    """Return the last line of an error of Ray, which names the cause."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
