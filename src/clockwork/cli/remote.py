"""The commands that connect to a running server: ``clockwork load``, ``ls``, ``infer`` and ``status``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from clockwork.cli.options import AsJson, ServerAddress, duration, examples
from clockwork.cli.security import ClientTlsCa, ClientTlsCert, ClientTlsKey, ClientTokenFile, Credentials
from clockwork.controller.stage import Stage
from clockwork.messages.counts import CHECK_OUTCOMES
from clockwork.messages.profile import ModelProfile
from clockwork.messages.requests import ModelStatus, ServerStatus, WorkerStatus
from clockwork.net.address import DEFAULT_LISTEN, Address
from clockwork.units import Nanos, as_seconds, show_bytes, show_duration

if TYPE_CHECKING:
    from rich.table import Table

    from clockwork.arrays import Array
    from clockwork.client import Client, InferenceResult
    from clockwork.messages.requests import ModelSummary

LOAD_EXAMPLES: Final = examples(
    "clockwork load resnet50.onnx",
    "clockwork load vision/resnet50/1/model.onnx --name resnet50 --copies 100 --address host-a:12346",
)
LS_EXAMPLES: Final = examples("clockwork ls", "clockwork ls --json | jq '.[].name'")
INFER_EXAMPLES: Final = examples(
    "clockwork infer resnet50 --input cat.png --slo 250ms",
    "clockwork infer bert --input ids=ids.npy --input mask=mask.npy --json",
    "clockwork infer mlp --input request.json     # a list, lists by input name, or a v2 request",
)
STATUS_EXAMPLES: Final = examples(
    "clockwork status", "clockwork status --by-model", "clockwork status --json | jq .predictions"
)

MAX_ELEMENTS: Final = 5
"""Elements of a vector that ``infer`` prints."""

MAX_ROWS: Final = 8
"""Rows of a batch that ``infer`` prints."""

ByModel: TypeAlias = Annotated[bool, typer.Option("--by-model", help="Show the prediction errors of each model.")]


def load(
    path: Annotated[
        str, typer.Argument(help="Path of the model, relative to the workers' model roots.", show_default=False)
    ],
    copies: Annotated[
        int, typer.Option(min=1, help="Number of independent copies, named NAME-1 to NAME-N if there are several.")
    ] = 1,
    name: Annotated[str, typer.Option(show_default="from the path", help="Name of the model.")] = "",
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Load a model on every worker, and print the names under which it will be served.

    Models are loaded before serving begins. Loading ends when no load has arrived for 10 s.
    """
    with _connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        for loaded in client.load_model(path, copies, name):
            print(loaded)


def ls(
    address: ServerAddress = DEFAULT_LISTEN,
    json: AsJson = False,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """List the served models with their inputs and outputs. During start-up the command waits for at most 10 s."""
    from clockwork.cli.output import show, show_json, table

    with _connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        models = client.ls()
    if json:
        show_json(models)
        return
    rows = [
        (
            model.name,
            ", ".join(info.describe() for info in model.inputs),
            ", ".join(info.describe() for info in model.outputs),
            model.max_batch_size,
            show_bytes(model.weights_bytes),
        )
        for model in models
    ]
    show(table("", ("model", "inputs", "outputs", ">max batch", ">weights"), rows))


def infer(
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="File with an input: .npy, .json or an image; one option per input.",
            show_default=False,
        ),
    ],
    slo: Annotated[
        Nanos | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            show_default="the server's",
            help="Longest acceptable time until the response.",
        ),
    ] = None,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
    json: AsJson = False,
) -> None:
    """Send one request to a model; print its outputs and its timing.

    Numbers are converted to the input's type, and a missing batch dimension is added. Images are resized to the
    input's height and width. For inputs of floats their values are scaled to the range 0 to 1.
    """
    from clockwork.cli.inputs import read_inputs
    from clockwork.cli.output import show, show_json
    from clockwork.clock import MonotonicClock
    from clockwork.errors import UnknownModelError
    from clockwork.messages.faults import unknown_model

    with _connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        served = {summary.name: summary for summary in client.ls()}
        if model not in served:
            raise UnknownModelError(unknown_model(model, served))
        arrays = read_inputs(served[model], inputs)
        start = MonotonicClock.now()
        result = client.infer(model, arrays, slo=None if slo is None else as_seconds(slo))
        round_trip = MonotonicClock.now() - start
    if json:
        show_json(_result_json(served[model], result, round_trip))
    else:
        show(*_result_lines(result, round_trip))


def status(
    address: ServerAddress = DEFAULT_LISTEN,
    by_model: ByModel = False,
    json: AsJson = False,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Show the server's stage, workers, devices, models with their measured times, and request counts.

    The server answers in every stage. Times are p99 of one request, except where a batch size is given.

    The prediction errors compare the predicted begin, duration and end of each load and infer action with the measured
    ones.
    """
    from clockwork.cli.output import show, show_json

    with _connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        server = client.status()
    if json:
        show_json(server)
    else:
        show(*describe_server(server, by_model))


def _connect(
    address: Address, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, token_file: Path | None
) -> "Client":
    from clockwork.client import Client

    return Client(str(address), **Credentials(tls_ca, tls_cert, tls_key, token_file).arguments())


# --------------------------------------------------------------------------------------------- infer's output


def _result_json(model: "ModelSummary", result: "InferenceResult", round_trip: Nanos) -> dict[str, Any]:
    """Return the outputs as in the Open Inference Protocol v2, and the timing in nanoseconds."""
    datatypes = {info.name: info.datatype for info in model.outputs}
    outputs = [
        {"name": name, "shape": array.shape, "datatype": datatypes[name], "data": _elements(array)}
        for name, array in result.items()
    ]
    return {"model_name": model.name, "outputs": outputs, "timing": result.timing, "round_trip": round_trip}


def _elements(array: "Array") -> list[Any]:
    flat = array.ravel()
    if array.dtype.kind == "O":
        return [element.decode(errors="replace") for element in flat.tolist()]
    if array.dtype.isbuiltin != 1:  # bfloat16
        flat = flat.astype("float32")
    elements: list[Any] = flat.tolist()
    return elements


def _result_lines(result: "InferenceResult", round_trip: Nanos) -> Iterable[str]:
    for name, array in result.items():
        yield f"{name} {array.dtype}{list(array.shape)}"
        yield from (f"  {line}" for line in _array_lines(array))
    timing = result.timing
    temperature = "cold start" if timing.cold_start else "warm"
    yield (
        f"{show_duration(round_trip)} round trip; at the server {show_duration(timing.total)}: queue "
        f"{show_duration(timing.queue)}, execution {show_duration(timing.exec)} in a batch of {timing.batch_size}, "
        f"{temperature}"
    )


def _array_lines(array: "Array") -> Iterable[str]:
    """Yield the largest elements of each row of a batch of vectors, or the first elements of another array."""
    rows = array.reshape(len(array), -1) if array.ndim >= 2 and len(array) else array
    if rows.ndim != 2 or not 2 <= rows.shape[1] == max(array.shape[1:]) or array.dtype.kind == "O":
        first = ", ".join(map(_show_element, _elements(array.ravel()[:MAX_ELEMENTS])))
        yield first + (", ..." if array.size > MAX_ELEMENTS else "")
        return
    for number, row in enumerate(rows[:MAX_ROWS]):
        largest = row.argsort()[::-1][:MAX_ELEMENTS]
        label = f"row {number}: " if len(rows) > 1 else ""
        yield f"{label}largest: " + ", ".join(f"[{i}] {_show_element(row[i].item())}" for i in largest.tolist())
    if len(rows) > MAX_ROWS:
        yield f"... {len(rows)} rows"


def _show_element(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -------------------------------------------------------------------------------------------- status's output


def describe_server(server: ServerStatus, by_model: bool = False) -> "Iterable[Table | str]":
    """Yield a headline, then tables of devices, models, requests and prediction errors, then warnings."""
    from clockwork.cli.output import device_predictions, model_predictions, prediction_table, table

    yield _headline(server)
    devices = [row for worker in server.workers for row in _device_rows(worker)]
    columns = ("worker", ">device", "kind", ">cache", ">models in cache", ">outstanding", "state")
    yield table("Devices", columns, devices) if devices else "\nNo worker is connected."
    if server.models:
        times = [row for model in server.models for row in _time_rows(model)]
        columns = ("model", ">weights", "device kind", ">load", ">execution", ">largest batch", ">its execution")
        yield table("Models", columns, times)
        yield _request_table(server)
    checked = [model for model in server.models if model.counts.checks]
    if checked:
        checks = [
            (model.info.name, *(model.counts.checks.get(outcome, 0) for outcome in CHECK_OUTCOMES)) for model in checked
        ]
        yield table("Checks of batches", ("model", *(f">{outcome}" for outcome in CHECK_OUTCOMES)), checks)
    by_device = prediction_table("device", device_predictions(server))
    if by_device is not None:
        yield by_device
    each_model = prediction_table("model", model_predictions(server)) if by_model else None
    if each_model is not None:
        yield each_model
    for model in server.models:
        if model.unbatched:
            yield f"{model.info.name} is not batched: {model.unbatched}"
    for name, reason in sorted(server.broken.items()):
        yield f"{name} is not served: {reason}"


def _headline(server: ServerStatus) -> str:
    progress = server.progress
    text = f"clockwork {server.version}: {server.stage}"
    if server.stage == Stage.SERVING.value and not server.ready:
        text += ", not ready (no worker responds)"
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


def _request_table(server: ServerStatus) -> "Table":
    from clockwork.cli.output import table

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
    return table("Requests", columns, counts)
