"""``clockwork status``: the state of the whole server."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from clockwork.cli import predictions
from clockwork.cli.options import AsJson, ServerAddress, examples
from clockwork.cli.security import Caller, OwnTlsCert, OwnTlsKey, TlsCa, TokenFile
from clockwork.controller.stage import Stage
from clockwork.messages.counts import CHECK_OUTCOMES
from clockwork.messages.profile import ModelProfile
from clockwork.messages.requests import ModelStatus, ServerStatus, WorkerStatus
from clockwork.net.address import DEFAULT_LISTEN
from clockwork.units import as_seconds, show_bytes, show_duration

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLES: Final = examples(
    "clockwork status", "clockwork status --by-model", "clockwork status --json | jq .predictions"
)

ByModel: TypeAlias = Annotated[bool, typer.Option("--by-model", help="Show predictions for each model, too.")]


def status(
    address: ServerAddress = DEFAULT_LISTEN,
    by_model: ByModel = False,
    json: AsJson = False,
    tls_ca: TlsCa = None,
    tls_cert: OwnTlsCert = None,
    tls_key: OwnTlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Show the server's stage, its workers and devices, its models with their measured times, and their requests.

    Answered in every stage. Times are p99 for one request, except where a batch size is given.

    Predictions are of when each load and infer action begins, how long it takes, and when it ends.
    """
    from clockwork.cli.output import show, show_json
    from clockwork.client import Client

    with Client(str(address), **Caller(tls_ca, tls_cert, tls_key, token_file).arguments()) as client:
        server = client.status()
    if json:
        show_json(server)
    else:
        show(*describe(server, by_model))


def describe(server: ServerStatus, by_model: bool = False) -> "Iterable[Table | str]":
    """What people see: a headline, the devices, the models, the requests, the predictions."""
    from clockwork.cli.output import table

    yield _headline(server)
    devices = [row for worker in server.workers for row in _device_rows(worker)]
    columns = ("worker", ">gpu", "kind", ">cache", ">models in it", ">outstanding", "state")
    yield table("Devices", columns, devices) if devices else "\nNo worker is connected."
    if server.models:
        times = [row for model in server.models for row in _time_rows(model)]
        columns = ("model", ">weights", "device kind", ">load", ">execution", ">largest batch", ">its execution")
        yield table("Models", columns, times)
        counts = [
            (
                model.info.name,
                model.in_time,
                model.late,
                model.refused,
                model.failed,
                model.cold_starts,
                model.broken_promises,
            )
            for model in server.models
        ]
        columns = ("model", ">in time", ">late", ">refused", ">failed", ">cold starts", ">broken promises")
        yield table("Requests", columns, counts)
    checked = [model for model in server.models if model.counts.checks]
    if checked:
        checks = [(it.info.name, *(it.counts.checks.get(outcome, 0) for outcome in CHECK_OUTCOMES)) for it in checked]
        yield table("Checks of batches", ("model", *(f">{outcome}" for outcome in CHECK_OUTCOMES)), checks)
    by_device = predictions.prediction_table("device", predictions.devices(server))
    if by_device is not None:
        yield by_device
    each_model = predictions.prediction_table("model", predictions.models(server)) if by_model else None
    if each_model is not None:
        yield each_model
    for model in server.models:
        if model.unbatched:
            yield f"{model.info.name} is not batched: {model.unbatched}"
    for name, why in sorted(server.broken.items()):
        yield f"{name} is not served: {why}"


def _headline(server: ServerStatus) -> str:
    progress = server.progress
    text = f"clockwork {server.version}: {server.stage}"
    if server.stage == Stage.SERVING.value and not server.ready:
        text += ", not ready (no worker answers)"
    if progress.total:
        text += f" ({progress.done} of {progress.total} models"
        text += ")" if progress.remaining is None else f", about {as_seconds(progress.remaining):.0f} s left)"
    plural = "" if server.outstanding == 1 else "s"
    return f"{text}, scheduler {server.scheduler}, {server.outstanding} request{plural} outstanding"


def _device_rows(worker: WorkerStatus) -> Iterable[tuple[object, ...]]:
    for device in worker.gpus:
        used, total = device.used_pages * worker.page_size, device.gpu.total_pages * worker.page_size
        yield (
            worker.id,
            device.gpu.id,
            device.gpu.kind,
            f"{show_bytes(used)} of {show_bytes(total)}",
            len(device.gpu.models),
            device.outstanding,
            "ready" if worker.ready else "silent" if worker.silent else "not ready",
        )


def _time_rows(model: ModelStatus) -> Iterable[tuple[object, ...]]:
    weights = show_bytes(model.info.weights_bytes)
    if not model.profiles:
        yield model.info.name, weights, "not measured yet", "", "", "", ""
    for kind, profile in sorted(model.profiles.items()):
        yield model.info.name, weights, kind, *_times(profile)


def _times(profile: ModelProfile) -> tuple[object, ...]:
    largest = profile.batch_sizes[-1]
    return (
        show_duration(profile.load_weights.p99),
        show_duration(profile.infer_estimate(1)),
        largest,
        show_duration(profile.infer_estimate(largest)),
    )
