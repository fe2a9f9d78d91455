"""The settings of tracing, from the variables of the OpenTelemetry specification."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from clockwork.errors import InvalidRequestError
from clockwork.tracing.context import Sampling, sampling
from clockwork.units import MILLISECOND, Nanos

HTTP: Final = "http/protobuf"
GRPC: Final = "grpc"

_PROTOCOLS: Final = (HTTP, GRPC)
_QUEUE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
_BATCH: Final = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_DELAY: Final = "OTEL_BSP_SCHEDULE_DELAY"
_DEFAULTS: Final = {_QUEUE: 2048, _BATCH: 512, _DELAY: 5000}


class TracingConfig(Struct, frozen=True):
    """Which requests are traced, and how their spans are exported.

    - ``sampling``: which requests are sampled
    - ``reads_context``: whether the trace contexts of clients are read
    - ``keep_failures``: whether refused requests and broken promises are exported even if they are not sampled
    - ``protocol``: how spans are sent to the collector, `HTTP` or `GRPC`
    - ``max_queue``: largest number of spans that wait to be exported; further spans are dropped
    - ``max_batch``: largest number of spans that are exported together
    - ``delay``: time for which spans are collected before they are exported

    The exporter of the OpenTelemetry SDK itself reads the collector's address, the headers, TLS and time limits
    (``OTEL_EXPORTER_OTLP_*``), and the SDK reads the attributes of the resource.
    """

    sampling: Sampling = sampling("")
    reads_context: bool = True
    keep_failures: bool = False
    protocol: str = HTTP
    max_queue: int = _DEFAULTS[_QUEUE]
    max_batch: int = _DEFAULTS[_BATCH]
    delay: Nanos = _DEFAULTS[_DELAY] * MILLISECOND


def tracing_config(environment: Mapping[str, str], *, keep_failures: bool = False) -> TracingConfig | None:
    """Return the settings in the variables, or None if a variable switches tracing off.

    Raises:
        InvalidRequestError: a variable has a value that is wrong or not supported.
    """

    def value(*names: str) -> str:
        return next((text for name in names if (text := environment.get(name, "").strip())), "")

    exporter = value("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter not in ("otlp", "none"):
        raise InvalidRequestError(f"OTEL_TRACES_EXPORTER is {exporter!r}; expected one of: otlp, none")
    if exporter == "none" or value("OTEL_SDK_DISABLED").lower() == "true":
        return None
    protocol = value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or HTTP
    if protocol not in _PROTOCOLS:
        text = f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; expected one of: {', '.join(_PROTOCOLS)}"
        raise InvalidRequestError(text)
    max_queue, max_batch, delay = (_positive(name, value(name)) for name in (_QUEUE, _BATCH, _DELAY))
    if max_batch > max_queue:
        raise InvalidRequestError(f"{_BATCH} is {max_batch}; it must be at most {_QUEUE}, which is {max_queue}")
    return TracingConfig(
        sampling=sampling(value("OTEL_TRACES_SAMPLER"), value("OTEL_TRACES_SAMPLER_ARG")),
        reads_context="tracecontext" in (value("OTEL_PROPAGATORS") or "tracecontext").replace(" ", "").split(","),
        keep_failures=keep_failures,
        protocol=protocol,
        max_queue=max_queue,
        max_batch=max_batch,
        delay=delay * MILLISECOND,
    )


def _positive(name: str, text: str) -> int:
    if not text:
        return _DEFAULTS[name]
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10**9):
        raise InvalidRequestError(f"{name} is {text!r}; it must be an integer from 1 to 1000000000")
    return int(text)
