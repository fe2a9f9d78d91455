"""A controller in this process and a worker in a child: what ``clockwork serve`` runs."""

from pathlib import Path

import uvloop
from msgspec import Struct
from rich.console import Console

from clockwork.cli.child import Child, this_program
from clockwork.cli.hosting import listening, together
from clockwork.cli.lifecycle import start_log, until_stopped
from clockwork.cli.startup import show_startup
from clockwork.host.affinity import allowed_cores, confined, plan_cores
from clockwork.host.controller import ControllerHostConfig
from clockwork.net.address import Address
from clockwork.scheduling.base import Scheduler
from clockwork.units import Bytes


class LocalWorker(Struct, frozen=True):
    """What the operator said about the worker."""

    model_root: Path
    devices: int
    threads_per_device: int
    cache_size: Bytes | None
    page_size: Bytes
    model_cache: Path | None

    def arguments(self, controller: Address, log_level: str) -> list[str]:
        """The command line, without the program."""
        made = [
            "worker",
            "--exit-with-parent",
            "--name=local",
            f"--controller={controller}",
            f"--model-root={self.model_root}",
            f"--devices={self.devices}",
            f"--threads-per-device={self.threads_per_device}",
            f"--page-size={self.page_size}",
            f"--log-level={log_level}",
        ]
        if self.cache_size is not None:
            made.append(f"--cache-size={self.cache_size}")
        if self.model_cache is not None:
            made.append(f"--model-cache={self.model_cache.absolute()}")
        return made


def run_embedded(config: ControllerHostConfig, scheduler: Scheduler, worker: LocalWorker, log_level: str) -> None:
    """Run both until a signal asks to end.

    This process keeps off the devices' cores, as the worker's own other threads do.

    Raises:
        ServerError: a model that was named cannot be served, or the worker cannot be kept alive.
    """
    console = Console(stderr=True)
    start_log(log_level, console)
    cores = allowed_cores()

    async def work() -> None:
        async with listening(config, scheduler) as host:
            child = Child(this_program(*worker.arguments(host.worker_address, log_level)), cores)
            await together(host.wait(), child.keep(), show_startup(host, console))

    with confined(plan_cores(cores, worker.devices, worker.threads_per_device).others):
        uvloop.run(until_stopped(work()))
