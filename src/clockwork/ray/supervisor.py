"""The actors of a fleet. Each supervises one child process: a controller or a worker.

The child process lives at most as long as its actor: the child ends when the pipe to its stdin is closed. The actor
lives longer than its child processes: it restarts the child after a pause. If the actor dies, Ray restarts it, possibly
on another node.

Threads of an actor: Ray's threads call the public methods. One thread runs the child process, one thread reads the
addresses that the child reports, and one thread repeats periodic work (`_watch`).
"""

import asyncio
import http.client
import json
import logging
import os
import shutil
import signal
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from clockwork.clock import MonotonicClock
from clockwork.host.child_process import Child, this_program
from clockwork.host.controller_file import ControllerFile
from clockwork.net.address import parse_address
from clockwork.ray.log_file import LogFile
from clockwork.ray.sizer import Resizable, Sizer
from clockwork.ray.sizing import Sizing
from clockwork.ray.spec import NAMESPACE, FleetSpec
from clockwork.ray.status import PartStatus
from clockwork.ray.versions import own_versions, version_fault
from clockwork.units import SECOND, Nanos

POLL: Final = 1.0
"""Time in seconds between two rounds of periodic work. Each worker asks the controller's actor once per round."""

ANSWER_TIME: Final = 5.0
"""Time in seconds that another actor or a child process has to answer."""

SIZE_ROUNDS: Final = 3
"""Number of rounds between two looks at the size of a fleet that follows its load."""

FIRST_CHANGE: Final[Nanos] = 5 * SECOND
"""Time of serving before the first change of the size. Meanwhile `start` creates the first workers."""

WORKER_TOKEN_VARIABLE: Final = "CLOCKWORK_WORKER_TOKEN"
"""Environment variable with the token of a worker process."""

METRIC_TAGS: Final = ("part",)

log = logging.getLogger("clockwork.ray")


class Supervisor:
    """Runs one child process. The classes of the actors derive from this class."""

    def __init__(self, name: str, spec: bytes, versions: dict[str, str]) -> None:
        """Start the child process, if the versions on this node are those of the fleet.

        ``spec`` is a `FleetSpec` as JSON, so that it can be passed to a node with another version.
        """
        import ray
        from ray.util.metrics import Gauge

        context = ray.get_runtime_context()
        self.name = name
        self._spec_json, self._versions = spec, versions
        self._node, self._node_id = ray.util.get_node_ip_address(), context.get_node_id()
        self._child: Child | None = None
        self._starts = 0
        self._serving, self._ready, self._ending = False, False, False
        self._addresses: dict[str, str] = {}
        self._reason = version_fault(own_versions(), versions, self._node)
        self._is_refused = bool(self._reason)
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._up = Gauge("clockwork_child_up", "Whether the child process runs.", METRIC_TAGS)
        self._restarts = Gauge("clockwork_child_restarts", "Restarts of the child process.", METRIC_TAGS)
        if self._is_refused:
            return
        self.spec = msgspec.json.decode(spec, type=FleetSpec)
        logs = Path(context.get_temp_dir()) / context.get_session_name() / "logs"
        self._log = LogFile(logs / f"{name.replace(':', '-')}.log")
        self._directory = Path(tempfile.mkdtemp(prefix="clockwork-ray-"))
        reader, writer = os.pipe()
        self._child = Child(
            this_program(*self._command(writer)),
            environment=self._environment(),
            descriptors=[writer],
            on_start=self._started,
            name=f"process of {name}",
            output=self._log.descriptor,
            may_fail_first=True,
            drain_time=self.spec.drain_time,
        )
        self._loop = asyncio.new_event_loop()
        self._running = self._loop.create_task(self._child.keep_running())
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)
        for target in (self._run, partial(self._read_reports, reader), self._watch):
            threading.Thread(target=target, name="clockwork", daemon=True).start()

    def __repr__(self) -> str:
        """Return the name that Ray shows in logs and in the dashboard."""
        return self.name

    # --- called through Ray --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return a `PartStatus` as plain data."""
        pid = None if self._child is None else self._child.pid
        if self._is_refused:
            state = "refused"
        elif self._ending:
            state = "ending"
        elif pid is None:
            state = "restarting" if self._starts else "starting"
        else:
            state = "ready" if self._ready else "starting"
        status = PartStatus(
            name=self.name,
            state=state,
            node=self._node,
            node_id=self._node_id,
            pid=pid,
            restarts=max(0, self._starts - 1),
            reason="" if state == "ready" else self._reason,
            log="" if self._is_refused else str(self._log.path),
            addresses=dict(self._addresses),
            sizing=self._sizing(),
        )
        return msgspec.to_builtins(status)  # type: ignore[no-any-return]

    def arguments(self) -> tuple[bytes, dict[str, str]]:
        """Return the last two arguments of the constructor, for an actor that replaces this actor."""
        return self._spec_json, self._versions

    def addresses(self) -> dict[str, str]:
        """Return the addresses of the child's ports, by name. They are empty while the child does not listen."""
        return dict(self._addresses)

    def end(self) -> None:
        """Let the child process finish its work, and return when it has ended. It is not started again."""
        if self._child is None:
            return
        with self._lock:
            if not self._ending:
                self._loop.call_soon_threadsafe(self._running.cancel)
            self._ending = True
        self._ended.wait()

    # --- the child -----------------------------------------------------------------------------------------------

    def _command(self, report: int) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return {}

    def _common_arguments(self, report: int) -> list[str]:
        arguments = ["--exit-with-parent", f"--report-descriptor={report}"]
        if self.spec.config:
            path = self._directory / "clockwork.toml"
            path.write_text(self.spec.config)
            arguments.append(f"--config={path}")
        return arguments

    def _started(self, pid: int) -> None:
        self._addresses, self._serving, self._ready = {}, False, False
        if self._starts:
            self._reason = self._log.last_line()
        self._starts += 1

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._running)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._ended.set()

    def _read_reports(self, reader: int) -> None:
        with os.fdopen(reader) as lines:
            for line in lines:
                self._reported(json.loads(line))

    def _reported(self, report: dict[str, Any]) -> None:
        """Handle a report of the child (`cli/address_report.py`)."""
        self._addresses, self._serving = report["addresses"], report["serving"]

    # --- periodic work -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._ended.wait(POLL):
            try:
                self._ready = self._find_ready()
                self._round()
                self._log.limit()
                self._publish()
                if _is_draining(self._node_id):
                    self._leave_node(f"Ray drains node {self._node}")
            except Exception:
                log.exception("%s: periodic work failed; trying again", self.name)

    def _find_ready(self) -> bool:
        """Return whether the child does its work."""
        raise NotImplementedError

    def _round(self) -> None:
        """Do periodic work of the subclass."""

    def _sizing(self) -> Sizing | None:
        """Return the wanted size of the fleet, if this process knows it."""
        return None

    def _publish(self) -> None:
        assert self._child is not None
        tags = {"part": self.name}
        self._up.set(float(self._child.pid is not None), tags)
        self._restarts.set(float(max(0, self._starts - 1)), tags)

    def _leave_node(self, why: str) -> None:
        """Finish the work on this node. Then let Ray restart this actor, on another node if this one is removed."""
        log.warning("%s: %s; ending the process on this node", self.name, why)
        self.end()
        os._exit(1)  # an orderly exit would not be followed by a restart

    def _on_signal(self, number: int, frame: object) -> None:
        """Handle SIGTERM, which ``ray stop`` sends to all processes of a node."""
        why = signal.Signals(number).name
        threading.Thread(target=self._leave_node, args=(why,), name="clockwork-end", daemon=True).start()


class ControllerSupervisor(Supervisor):
    """Runs ``clockwork controller``, and lets the fleet follow its load if the fleet is started so.

    `clockwork.ray.fleet.FleetController` is the class of the actor.
    """

    settling: ClassVar[Nanos] = 60 * SECOND  #: time of serving in which no worker ends, because workers reconnect
    _sizer: Sizer | None = None
    _held_until: Nanos = 0

    def _make_fleet(self) -> Resizable:
        """Return an object that controls the fleet."""
        raise NotImplementedError

    def hold_size(self, duration: float) -> None:
        """Keep the number of workers for this time, in seconds."""
        self._held_until = self._clock.now() + int(duration * SECOND)

    def _command(self, report: int) -> list[str]:
        self._clock = MonotonicClock()
        self._serving_since: Nanos | None = None
        self._devices: int | None = None
        self._why, self._rounds = "", 0
        if self.spec.limits is not None:
            self._sizer = Sizer(self._make_fleet, self.spec, self.spec.limits)
        tokens = self._directory / "worker-tokens"
        tokens.touch(0o600)
        tokens.write_text(f"{self.spec.token}\n")
        own = [f"--worker-token-file={tokens}", *self._common_arguments(report)]
        return ["controller", *own, *self.spec.controller_arguments(self._node)]

    def _find_ready(self) -> bool:
        return self._serving

    def _started(self, pid: int) -> None:
        super()._started(pid)
        self._serving_since, self._devices = None, None

    def _reported(self, report: dict[str, Any]) -> None:
        super()._reported(report)
        if self._serving and self._serving_since is None:
            self._serving_since = self._clock.now()
        self._devices, self._why = report.get("wanted"), report.get("why", "")

    def _round(self) -> None:
        """Start or end workers, if the fleet follows its load."""
        self._rounds += 1
        since, now = self._serving_since, self._clock.now()
        if self._sizer is None or since is None or self._ending or self._rounds % SIZE_ROUNDS:
            return
        if now < max(since + FIRST_CHANGE, self._held_until):
            return
        try:
            self._sizer.follow(self._devices, may_end=now >= since + self.settling)
        except Exception:
            log.exception("%s: cannot change the number of workers; trying again", self.name)

    def _sizing(self) -> Sizing | None:
        return None if self._sizer is None else self._sizer.sizing(self._devices, self._why)


class WorkerSupervisor(Supervisor):
    """Runs ``clockwork worker``, and lets it connect to the controller of the fleet wherever the controller runs."""

    def _command(self, report: int) -> list[str]:
        self._file = ControllerFile(self._directory / "controller")
        self._controller = ""
        own = [f"--controller-file={self._directory / 'controller'}", *self._common_arguments(report)]
        return ["worker", *own, *self.spec.worker_arguments(self.name)]

    def _environment(self) -> dict[str, str]:
        return {WORKER_TOKEN_VARIABLE: self.spec.token}

    def _find_ready(self) -> bool:
        """Return whether the worker is connected to its controller and loads no models."""
        if "health" not in self._addresses:
            return False
        address = parse_address(self._addresses["health"], 0)
        connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_TIME)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _round(self) -> None:
        """Write the controller's address into the file that the worker reads before it connects."""
        import ray

        try:
            controller = ray.get_actor(self.spec.controller, namespace=NAMESPACE)
            address = ray.get(controller.addresses.remote(), timeout=ANSWER_TIME).get("workers", "")
        except (ray.exceptions.RayError, ValueError):  # the controller is being moved or restarted
            return
        if address and address != self._controller:
            self._file.write(address)
            self._controller = address


def _is_draining(node_id: str) -> bool:
    """Return whether Ray is about to remove the node. Ray has no public function for this."""
    from ray._private.state import state

    return node_id in state.get_draining_nodes()
