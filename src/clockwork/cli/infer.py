"""``clockwork infer``: ask a model once."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from clockwork.cli.options import AsJson, ServerAddress, duration, examples
from clockwork.cli.security import Caller, OwnTlsCert, OwnTlsKey, TlsCa, TokenFile
from clockwork.net.address import DEFAULT_LISTEN
from clockwork.units import Nanos, as_seconds, show_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clockwork.arrays import Array
    from clockwork.client import InferenceResult
    from clockwork.messages.requests import ModelSummary

EXAMPLES: Final = examples(
    "clockwork infer resnet50 --input cat.png --slo 250ms",
    "clockwork infer bert --input ids=ids.npy --input mask=mask.npy --json",
    "clockwork infer mlp --input request.json       a list, an object of lists by input, or a v2 request",
)

TOP: Final = 5
"""The largest elements that are shown of a vector."""

ROWS_MAX: Final = 8
"""Rows of a batch that are shown."""


def infer(
    model: Annotated[str, typer.Argument(show_default=False)],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", metavar="[NAME=]FILE", help=".npy, .json or an image; once per input.", show_default=False
        ),
    ],
    slo: Annotated[
        Nanos | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            show_default="the server's",
            help="An answer later than this is of no use.",
        ),
    ] = None,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: TlsCa = None,
    tls_cert: OwnTlsCert = None,
    tls_key: OwnTlsKey = None,
    token_file: TokenFile = None,
    json: AsJson = False,
) -> None:
    """Ask a model once: its outputs, and where the time went.

    Numbers become what the model takes, and a missing batch dimension is added. Images are resized to the model's
    height and width, and scaled to 0-1 if it takes floats.
    """
    from clockwork.cli.inputs import read_inputs
    from clockwork.cli.output import show, show_json
    from clockwork.client import Client
    from clockwork.clock import MonotonicClock
    from clockwork.errors import UnknownModelError

    with Client(str(address), **Caller(tls_ca, tls_cert, tls_key, token_file).arguments()) as client:
        served = {it.name: it for it in client.ls()}
        if model not in served:
            raise UnknownModelError(f"no model {model!r} is served; there are {', '.join(served) or 'none'}")
        arrays = read_inputs(served[model], inputs)
        start = MonotonicClock.now()
        result = client.infer(model, arrays, slo=None if slo is None else as_seconds(slo))
        round_trip = MonotonicClock.now() - start
    if json:
        show_json(_as_json(served[model], result, round_trip))
    else:
        show(*_describe(result, round_trip))


def _as_json(model: "ModelSummary", result: "InferenceResult", round_trip: Nanos) -> dict[str, Any]:
    """The outputs as the Open Inference Protocol v2 writes them, and the timing in nanoseconds."""
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


def _describe(result: "InferenceResult", round_trip: Nanos) -> "Iterable[str]":
    for name, array in result.items():
        yield f"{name} {array.dtype}{list(array.shape)}"
        yield from (f"  {line}" for line in _show_array(array))
    timing = result.timing
    temperature = "cold start" if timing.cold_start else "warm"
    yield (
        f"{show_duration(round_trip)} round trip; at the server {show_duration(timing.total)}: queue "
        f"{show_duration(timing.queue)}, execution {show_duration(timing.exec)} in a batch of {timing.batch_size}, "
        f"{temperature}"
    )


def _show_array(array: "Array") -> "Iterable[str]":
    """The largest elements of each row of a batch of vectors; the beginning of anything else."""
    rows = array.reshape(len(array), -1) if array.ndim >= 2 and len(array) else array
    if rows.ndim != 2 or not 2 <= rows.shape[1] == max(array.shape[1:]) or array.dtype.kind == "O":
        beginning = ", ".join(map(_show, _elements(array.ravel()[:TOP])))
        yield beginning + (", ..." if array.size > TOP else "")
        return
    for number, row in enumerate(rows[:ROWS_MAX]):
        best = row.argsort()[::-1][:TOP]
        label = f"row {number}: " if len(rows) > 1 else ""
        yield f"{label}largest: " + ", ".join(f"[{i}] {_show(row[i].item())}" for i in best.tolist())
    if len(rows) > ROWS_MAX:
        yield f"... {len(rows)} rows"


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
