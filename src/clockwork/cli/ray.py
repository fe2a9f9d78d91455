"""The commands ``clockwork ray``, which run a fleet on a Ray cluster."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from clockwork.cli.options import AsJson, NoWait, examples
from clockwork.cli.parsers import duration
from clockwork.cli.worker_options import DeviceKind, Devices, Emulate, Profile, ThreadsPerDevice
from clockwork.net.address import CLIENT_PORT, WORKER_PORT
from clockwork.units import SECOND, Nanos, as_seconds

if TYPE_CHECKING:
    from clockwork.ray import FleetStatus, Sizing

START_EXAMPLES: Final = examples(
    "clockwork ray start resnet50.onnx --model-root /models --workers 4",
    "clockwork ray start --workers 2 --device cuda --devices 1 --worker-option=--runtime=onnx --model-root /models",
    "clockwork ray start resnet50.onnx --model-root /models --autoscale 2:16",
    "clockwork ray start --workers 3 --emulate 8 --profile resnet50-v100",
)
STATUS_EXAMPLES: Final = examples("clockwork ray status", "clockwork ray status --json")
SCALE_EXAMPLES: Final = examples("clockwork ray scale 6", "clockwork ray scale 2 --no-wait")
DRAIN_EXAMPLES: Final = examples("clockwork ray drain 10.0.0.7")
STOP_EXAMPLES: Final = examples("clockwork ray stop")

MAX_PORT: Final = 65535

ray_app = typer.Typer(help="A fleet on a Ray cluster: Ray places and restarts the controller and the workers.")

FleetName: TypeAlias = Annotated[
    str, typer.Option("--name", help="Name of the fleet; fleets with different names can share a cluster.")
]
RayAddress: TypeAlias = Annotated[
    str,
    typer.Option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="Address of the Ray cluster; auto finds the cluster of this machine.",
    ),
]
Wait: TypeAlias = Annotated[
    Nanos,
    typer.Option(
        "--wait",
        parser=duration,
        metavar="DURATION",
        show_default="5min",
        help="Longest time to wait until the controller and all workers are ready.",
    ),
]
WorkerLabels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--worker-label",
        metavar="KEY=VALUE",
        help="Label that a worker's node must have, as in Ray's label selectors. May be repeated.",
        show_default=False,
    ),
]
ControllerLabels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--controller-label",
        metavar="KEY=VALUE",
        help="Label that the controller's node must have. May be repeated.",
        show_default=False,
    ),
]
_FREE = "0 picks a free port."


@ray_app.command("start", epilog=START_EXAMPLES, short_help="Start a fleet.")
def start(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODELS...",
            help="Models to load at the start, as for clockwork controller. Without models, clients load them.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            show_default="1, or MIN of --autoscale",
            help="Number of workers. With --autoscale, only the number at the start.",
        ),
    ] = None,
    autoscale: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX",
            show_default="none",
            help="Let the number of workers follow the devices that the load needs, within these limits. Ray's "
            "autoscaler adds nodes if needed.",
        ),
    ] = None,
    model_root: Annotated[
        Path, typer.Option(file_okay=False, help="Directory of the models, on every node with a worker.")
    ] = Path(),
    device: DeviceKind = "cpu",
    devices: Devices = 1,
    threads_per_device: ThreadsPerDevice = 1,
    emulate: Emulate = None,
    profile: Profile = None,
    worker_cpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            show_default="one for each thread of a device",
            help="CPUs that Ray reserves for a worker.",
        ),
    ] = None,
    controller_cpus: Annotated[float, typer.Option(min=0, help="CPUs that Ray reserves for the controller.")] = 1,
    worker_label: WorkerLabels = None,
    controller_label: ControllerLabels = None,
    pack: Annotated[bool, typer.Option("--pack/--spread", help="Fill nodes, or spread workers over nodes.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=MAX_PORT, help=f"Port for clients of the native protocol; {_FREE}")
    ] = CLIENT_PORT,
    worker_port: Annotated[int, typer.Option(min=0, max=MAX_PORT, help=f"Port for workers; {_FREE}")] = WORKER_PORT,
    http_port: Annotated[int, typer.Option(min=0, max=MAX_PORT, help=f"Port for HTTP; {_FREE}")] = 8000,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=MAX_PORT, show_default="none", help=f"Port for gRPC; {_FREE}")
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="DIR",
            show_default="none",
            help="Directory that keeps the served models, so that a restarted controller serves them again. If the "
            "controller may move to another node, the nodes must share this directory.",
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            exists=True,
            dir_okay=False,
            metavar="FILE",
            show_default="none",
            help="TOML file with the tables [controller] and [worker]; its content is sent to the nodes.",
        ),
    ] = None,
    controller_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION",
            show_default=False,
            help="Option of clockwork controller, as --name=value. May be repeated.",
        ),
    ] = None,
    worker_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION", show_default=False, help="Option of clockwork worker, as --name=value. May be repeated."
        ),
    ] = None,
    name: FleetName = "clockwork",
    ray_address: RayAddress = "auto",
    wait: Wait = 300 * SECOND,
    no_wait: NoWait = False,
) -> None:
    """Start a controller and workers on a Ray cluster, and wait until they are ready.

    Ray places the controller and the workers on nodes with free resources, and restarts them when a node fails. The
    ports are on the controller's node. Clients send their requests to these ports, not to Ray.
    """
    from clockwork.cli.models import check_emulated
    from clockwork.ray import start as start_fleet

    check_emulated(emulate, profile)
    ports = {"clients": port, "workers": worker_port, "http": http_port, "grpc": grpc_port}
    fleet = start_fleet(
        models or (),
        workers=workers,
        address=ray_address,
        timeout=None if no_wait else as_seconds(wait),
        name=name,
        autoscale=_limits(autoscale),
        model_root=str(model_root.absolute()),
        device="emulated" if emulate else device,
        devices=emulate or devices,
        threads_per_device=threads_per_device,
        profiles=tuple(profile or ()),
        worker_cpus=worker_cpus,
        controller_cpus=controller_cpus,
        worker_labels=_labels(worker_label),
        controller_labels=_labels(controller_label),
        pack=pack,
        ports={key: value for key, value in ports.items() if value is not None},
        state_dir="" if state_dir is None else str(state_dir.absolute()),
        config="" if config_file is None else config_file.read_text(encoding="utf-8-sig"),
        controller_options=tuple(controller_option or ()),
        worker_options=tuple(worker_option or ()),
    )
    if not no_wait:
        _show(fleet.status())


@ray_app.command("status", epilog=STATUS_EXAMPLES, short_help="Show the processes of a fleet.")
def status(name: FleetName = "clockwork", ray_address: RayAddress = "auto", json: AsJson = False) -> None:
    """Show the addresses of a fleet, and the state and node of each process.

    With --autoscale, also show how many devices the load needs, and why.

    The exit code is 1 if a process is not ready.
    """
    from clockwork.cli.output import show_json
    from clockwork.ray import attach

    found = attach(name, address=ray_address).status()
    if json:
        show_json(found.as_dict())
    else:
        _show(found)
    if not found.is_ready:
        raise typer.Exit(1)


@ray_app.command("scale", epilog=SCALE_EXAMPLES, short_help="Change the number of workers.")
def scale(
    workers: Annotated[
        int, typer.Argument(metavar="WORKERS", min=0, max=10_000, help="New number of workers.", show_default=False)
    ],
    name: FleetName = "clockwork",
    ray_address: RayAddress = "auto",
    wait: Wait = 300 * SECOND,
    no_wait: NoWait = False,
) -> None:
    """Start further workers, or end surplus workers.

    A surplus worker finishes its actions before it ends. Requests that were planned on it are executed by other
    workers.
    """
    from clockwork.ray import attach

    fleet = attach(name, address=ray_address)
    fleet.scale(workers)
    if not no_wait:
        _show(fleet.wait_until_ready(as_seconds(wait)))


@ray_app.command("drain", epilog=DRAIN_EXAMPLES, short_help="Move a fleet's processes away from a node.")
def drain(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="IP address of the node, or Ray's id of it.", show_default=False)
    ],
    name: FleetName = "clockwork",
    ray_address: RayAddress = "auto",
) -> None:
    """Start replacements on other nodes, and end the processes on this node when their work is done.

    Afterwards the node can be stopped. If the controller runs on the node, it moves too, and clients have to connect to
    its new address.
    """
    from clockwork.ray import attach

    for part in attach(name, address=ray_address).drain(node):
        print(part, flush=True)


@ray_app.command("stop", epilog=STOP_EXAMPLES, short_help="Stop a fleet.")
def stop(name: FleetName = "clockwork", ray_address: RayAddress = "auto") -> None:
    """Answer the pending requests, and end the controller and all workers. Ray continues to run."""
    from clockwork.ray import attach

    attach(name, address=ray_address).stop()


def _labels(texts: list[str] | None) -> dict[str, str]:
    labels = {}
    for text in texts or ():
        key, separator, value = text.partition("=")
        if not key or not separator or not value:
            raise typer.BadParameter(f"invalid label {text!r}; use KEY=VALUE")
        labels[key] = value
    return labels


def _limits(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text)
    if not found:
        raise typer.BadParameter(f"invalid limits {text!r} of --autoscale; use MIN:MAX, for example 2:16")
    return int(found[1]), int(found[2])


def _sizing(sizing: "Sizing") -> str:
    limits = f"{sizing.least} to {sizing.most} workers"
    if sizing.devices is None:
        return f"autoscale: {limits}; the controller has not reported a number of devices"
    devices = "1 device" if sizing.devices == 1 else f"{sizing.devices} devices"
    workers = "1 worker" if sizing.workers == 1 else f"{sizing.workers} workers"
    return f"autoscale: {limits}; {devices} wanted, so {workers}: {sizing.why}"


_PORT_NAMES: Final = {"http": "HTTP", "grpc": "gRPC", "clients": "the native protocol"}


def _show(status: "FleetStatus") -> None:
    from clockwork.cli.output import show, table

    lines = [
        f"{status.name} serves {text} on {status.addresses[port]}"
        for port, text in _PORT_NAMES.items()
        if port in status.addresses
    ]
    if status.sizing is not None:
        lines.append(_sizing(status.sizing))
    parts = (status.controller, *status.workers)
    rows = [(part.name, part.state, part.node, part.pid or "", part.restarts, part.reason) for part in parts]
    show(*lines, table("", ("process", "state", "node", ">pid", ">restarts", "reason"), rows))
