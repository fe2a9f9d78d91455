"""The commands that connect to a running server: ``clockwork load``, ``ls``, ``infer`` and ``status``."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from clockwork.cli.options import AsJson, NoWait, ServerAddress, examples
from clockwork.cli.parsers import duration
from clockwork.cli.security import ClientTlsCa, ClientTlsCert, ClientTlsKey, ClientTokenFile, Credentials, connect
from clockwork.net.address import DEFAULT_LISTEN
from clockwork.units import SECOND, Nanos, as_seconds, show_bytes, show_duration

if TYPE_CHECKING:
    from clockwork.arrays import Array
    from clockwork.client import InferenceResult
    from clockwork.messages.requests import ModelSummary

LOAD_EXAMPLES: Final = examples(
    "clockwork load resnet50.onnx",
    "clockwork load resnet50/2 --name resnet50 --keep     # serve version 2 beside version 1",
    "clockwork load vision/resnet50/1/model.onnx --name resnet50 --copies 100 --address host-a:12346",
)
LS_EXAMPLES: Final = examples("clockwork ls", "clockwork ls --json | jq '.[].name'")
INFER_EXAMPLES: Final = examples(
    "clockwork infer resnet50 --input cat.png --slo 250ms",
    "clockwork infer bert --input ids=ids.npy --input mask=mask.npy --json",
    "clockwork infer mlp --input request.json     # a list, lists by input name, or a v2 request",
)
STATUS_EXAMPLES: Final = examples(
    "clockwork status",
    "clockwork status --errors        # predictions compared with measurements",
    "clockwork status --json | jq .predictions",
)

MAX_ELEMENTS: Final = 5
"""Largest number of elements that ``infer`` prints of a vector."""

MAX_ROWS: Final = 8
"""Largest number of rows of a batch that ``infer`` prints."""

Everything: TypeAlias = Annotated[bool, typer.Option("--all", help="Show every model and device, one per line.")]
Errors: TypeAlias = Annotated[bool, typer.Option("--errors", help="Show the prediction errors of each device.")]
ByModel: TypeAlias = Annotated[bool, typer.Option("--by-model", help="Show the prediction errors of each model.")]


def load(
    path: Annotated[
        str, typer.Argument(help="Path of the model, relative to the workers' model roots.", show_default=False)
    ],
    copies: Annotated[
        int, typer.Option(min=1, help="Number of independent copies, named NAME-1 to NAME-N if there are several.")
    ] = 1,
    name: Annotated[str, typer.Option(show_default="from the path", help="Name of the model.")] = "",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the model's other versions in service, instead of replacing them.")
    ] = False,
    no_wait: NoWait = False,
    timeout: Annotated[
        Nanos,
        typer.Option(parser=duration, metavar="DURATION", show_default="10min", help="Longest time to wait."),
    ] = 600 * SECOND,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Load a model on every worker, and print the names under which it will be served.

    A server in the control mode explicit loads models while it serves. The command waits until the model is ready. Then
    the model replaces the versions that were served under its name. Other servers load models before serving begins.
    Serving begins when no load has arrived for 10 s.

    While the command waits, it prints the server's progress to stderr.
    """
    import asyncio

    from clockwork.cli.loading import load_with_progress
    from clockwork.client import AsyncClient

    async def run() -> list[str]:
        credentials = Credentials(tls_ca, tls_cert, tls_key, token_file).arguments()
        async with AsyncClient(str(address), **credentials) as client:
            if keep or no_wait:
                loading = client.load(name, path, keep=keep, wait=not no_wait)
            else:
                loading = client.load_model(path, copies, name)
            return await load_with_progress(client, path, loading, as_seconds(timeout))

    for loaded in asyncio.run(run()):
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

    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        models = client.ls()
    if json:
        show_json(models)
        return
    rows = [
        (
            model.name,
            _version(model),
            ", ".join(info.describe() for info in model.inputs),
            ", ".join(info.describe() for info in model.outputs),
            model.max_batch_size,
            show_bytes(model.weights_bytes),
        )
        for model in models
    ]
    show(table("", ("model", "version", "inputs", "outputs", ">max batch", ">weights"), rows))


def infer(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:VERSION]", help="Name of the model, or one of its versions or labels.", show_default=False
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="File with an input: .npy, .json or an image. Repeat the option for each input.",
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
    """Send one request to a model, and print its outputs and its timing.

    Numbers are converted to the input's type, and a missing batch dimension is added. Images are resized to the
    input's height and width. For inputs of floats the pixel values are scaled to the range 0 to 1.
    """
    from clockwork.cli.inputs import read_inputs
    from clockwork.cli.output import show, show_json
    from clockwork.clock import MonotonicClock
    from clockwork.errors import UnknownModelError
    from clockwork.messages.faults import unknown_model, unknown_version

    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        name, _, version = model.partition(":")
        models = client.ls()
        served = [summary for summary in models if summary.name == name]
        if not served:
            raise UnknownModelError(unknown_model(name, {summary.name for summary in models}))
        chosen = next((summary for summary in served if is_version(summary, version)), None)
        if chosen is None:
            raise UnknownModelError(unknown_version(name, version, [summary.version for summary in served]))
        arrays = read_inputs(chosen, inputs)
        start = MonotonicClock.now()
        result = client.infer(name, arrays, slo=None if slo is None else as_seconds(slo), version=version)
        round_trip = MonotonicClock.now() - start
    if json:
        show_json(_result_json(chosen, result, round_trip))
    else:
        show(*_result_lines(result, round_trip))


def is_version(summary: "ModelSummary", version: str) -> bool:
    """Return whether ``version`` is the number or a label of a served version.

    An empty ``version`` means the default version.
    """
    return version in (summary.version, *summary.labels) if version else summary.default


def status(
    address: ServerAddress = DEFAULT_LISTEN,
    everything: Everything = False,
    errors: Errors = False,
    by_model: ByModel = False,
    json: AsJson = False,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Show the server's stage, workers, devices, models with their measured times, and request counts.

    The output fits on one screen. Copies of a model share a line. If there are too many models, only the models with
    the most requests are shown. With --all, every model and device has a line.

    The server answers in every stage. Each time is the 99th percentile for a batch of one request, unless a batch size
    is shown.

    The prediction errors (--errors, --by-model) compare the predicted start, duration and end of each load and infer
    action with the measured values.
    """
    from clockwork.cli.output import screen_height, show, show_json
    from clockwork.cli.status_report import describe_server

    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        server = client.status()
    if json:
        show_json(server)
    else:
        height = None if everything else screen_height()
        show(*describe_server(server, height=height, errors=errors, by_model=by_model))


def _version(model: "ModelSummary") -> str:
    """Return the number of a version, and its labels."""
    return ", ".join((model.version, *model.labels))


# --------------------------------------------------------------------------------------------- infer's output


def _result_json(model: "ModelSummary", result: "InferenceResult", round_trip: Nanos) -> dict[str, Any]:
    """Return the outputs in the format of the Open Inference Protocol v2, and the timing in nanoseconds."""
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
    if array.dtype.isbuiltin != 1:  # the type is bfloat16
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
        f"{temperature}; request {result.request_id}"
    )


def _array_lines(array: "Array") -> Iterable[str]:
    """Yield the largest elements of each row if the array is a batch of vectors, else its first elements."""
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
