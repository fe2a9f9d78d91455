"""Reads workloads from a scenario file, which has one ``[[workload]]`` table for each stream.

::

    [[workload]]
    kind = "poisson"            # fixed, gamma, on-off, ramp, closed, azure, activate
    name = "web"                # label in the results; default: the number and kind of the stream
    rate = 900                  # requests/s of all its models together
    models = ["resnet50-*"]     # globs, "first:12", "slice:12:48"; default: all
    mix = "zipf"                # or uniform
    shuffle = true              # shuffle the models, whose order matters to zipf, activate and azure

A closed loop has ``concurrency`` clients for each model. Clients pause for ``think_ms`` between requests, and their
first requests are spread over ``stagger_ms``. ``slo_ladder = {start_ms = 2.9, factor = 1.5, step_s = 30, max_ms =
290}`` raises the SLO step by step. ``start_factor`` and ``max_factor`` may replace ``start_ms`` and ``max_ms``. The
stream ends after the last step.
"""

from collections.abc import Mapping, Sequence
from math import ceil, isfinite, log
from random import Random
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from clockwork.errors import InvalidRequestError
from clockwork.units import MICROSECOND, SECOND, Nanos, ms, seconds
from clockwork.workload import arrivals
from clockwork.workload.azure import MAX_FUNCTIONS, TraceStream, parse_trace, per_model, synthetic_trace
from clockwork.workload.mix import Mix, chosen, uniform, zipf
from clockwork.workload.streams import (
    ClosedLoop,
    GrowingLoop,
    GrowingMix,
    OpenLoop,
    Slo,
    Stream,
    constant,
    ladder,
)
from clockwork.workload.workload import Workload

MAX_CLIENTS: Final = 1_000_000
MAX_RATE: Final = 1e7
MAX_TIME: Final = 31 * 24 * 3600.0
"""Limit of a time in seconds, which is 31 days."""

MAX_STEPS: Final = 1_000_000

FUNCTIONS_PER_MODEL: Final = 5
"""Number of functions per model in a synthetic trace by default. In the paper's trace, each model had 4 to 5 functions.
"""


class LadderSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """An SLO that grows step by step. The bounds are two times, or two multiples of the time of one row."""

    step_s: float
    factor: float = 1.5
    start_ms: float = 0.0
    max_ms: float = 0.0
    start_factor: float = 0.0
    max_factor: float = 0.0

    def slo(self) -> Slo:
        """Return the SLO as a function of the time after the stream's start."""
        if self.start_factor:
            return ladder(self.start_factor, self.factor, seconds(self.step_s), self.max_factor, relative=True)
        return ladder(ms(self.start_ms), self.factor, seconds(self.step_s), ms(self.max_ms), relative=False)


class StreamSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[workload]]`` table."""

    kind: Literal["poisson", "fixed", "gamma", "on-off", "ramp", "closed", "azure", "activate"]
    name: str = ""
    rate: float = 0.0
    rate_end: float = 0.0
    rate_factor: float = 0.0
    step_s: float = 1.0
    cv: float = 1.0
    on_s: float = 1.0
    off_s: float = 1.0
    concurrency: int = 1
    think_ms: float = 0.0
    stagger_ms: float = 0.0
    models: tuple[str, ...] = ()
    mix: Literal["uniform", "zipf"] = "uniform"
    zipf_s: float = 1.1
    slo_ms: float | None = None
    slo_factor: float | None = None
    slo_ladder: LadderSpec | None = None
    start_s: float = 0.0
    stop_s: float | None = None
    batch_size: int = 1
    scale: float = 1.0
    active: int = 1
    trace: str = ""
    load_factor: float = 1.0
    minutes: int = 1440
    minute_s: float = 60.0
    start_minute: int = 0
    functions: int = 0
    shuffle: bool = False


def scaled(spec: StreamSpec, factor: float) -> StreamSpec:
    """Return the stream with ``factor`` times the request rate. A closed loop gets ``factor`` times the clients."""
    if spec.kind == "closed":
        return replace(spec, concurrency=max(1, ceil(spec.concurrency * factor - 1e-9)))
    return replace(spec, scale=spec.scale * factor)


def with_slo_scaled(spec: StreamSpec, factor: float) -> StreamSpec:
    """Return the stream with ``factor`` times its SLO, if the stream sets an SLO."""
    stairs = spec.slo_ladder
    if stairs is not None:
        stairs = replace(
            stairs,
            start_ms=stairs.start_ms * factor,
            max_ms=stairs.max_ms * factor,
            start_factor=stairs.start_factor * factor,
            max_factor=stairs.max_factor * factor,
        )
    slo_ms = None if spec.slo_ms is None else spec.slo_ms * factor
    slo_factor = None if spec.slo_factor is None else spec.slo_factor * factor
    return replace(spec, slo_ms=slo_ms, slo_factor=slo_factor, slo_ladder=stairs)


def has_slo_factor(spec: StreamSpec) -> bool:
    """Return whether the SLOs of a stream are multiples of its models' times."""
    stairs = spec.slo_ladder
    return spec.slo_factor is not None or (stairs is not None and stairs.start_factor > 0)


def without_slo(spec: StreamSpec) -> StreamSpec:
    """Return the stream without its own SLO."""
    return replace(spec, slo_ms=None, slo_factor=None, slo_ladder=None)


def make_workload(
    specs: Sequence[StreamSpec],
    models: Sequence[str],
    duration: Nanos,
    rng: Random,
    traces: Mapping[str, Sequence[str]] | None = None,
) -> Workload:
    """Create the workload of a scenario for ``models``. The workload ends after ``duration``.

    ``traces`` contains the lines of each named trace.

    Raises:
        InvalidRequestError: a value of a stream is out of range.
    """
    streams: list[Stream] = []
    for number, spec in enumerate(specs):
        try:
            streams.append(_stream(number, spec, models, duration, Random(rng.getrandbits(64)), traces or {}))
        except InvalidRequestError as error:
            raise InvalidRequestError(f"[[workload]] {number + 1} ({spec.kind}): {error}") from None
    return Workload(streams)


def _stream(
    number: int,
    spec: StreamSpec,
    models: Sequence[str],
    duration: Nanos,
    rng: Random,
    traces: Mapping[str, Sequence[str]],
) -> Stream:
    _check(spec)
    names = chosen(spec.models, models)
    if spec.shuffle:
        rng.shuffle(names)
    start = seconds(spec.start_s)
    stop = duration if spec.stop_s is None else min(duration, seconds(spec.stop_s))
    slo = _slo(spec)
    rate = spec.rate * spec.scale
    if spec.kind == "closed":
        if spec.concurrency * len(names) > MAX_CLIENTS:
            raise InvalidRequestError(f"stream has {spec.concurrency * len(names)} clients; the limit is {MAX_CLIENTS}")
        think, stagger = ms(spec.think_ms), ms(spec.stagger_ms)
        return ClosedLoop(number, names, spec.concurrency, think, stagger, slo, start, stop, spec.batch_size, rng)
    if spec.kind == "azure":
        counts = per_model(_functions(spec, len(names), rng, traces), len(names))
        if spec.start_minute >= len(counts[0]):
            raise InvalidRequestError(f"start_minute is {spec.start_minute}; the trace has {len(counts[0])} minutes")
        factor = spec.load_factor * spec.scale
        minutes, minute = (spec.start_minute, spec.minutes), seconds(spec.minute_s)
        return TraceStream(number, names, counts, factor, *minutes, minute, slo, start, stop, spec.batch_size, rng)
    process = _process(spec, rate, max(1, stop - start), rng)
    if spec.kind == "activate":
        growing = GrowingMix(names, spec.active, seconds(spec.step_s), rng)
        return GrowingLoop(number, process, growing, slo, start, stop, spec.batch_size)
    mix: Mix = uniform(names, rng) if spec.mix == "uniform" else zipf(names, spec.zipf_s, rng)
    return OpenLoop(number, process, mix, slo, start, stop, spec.batch_size)


def _process(spec: StreamSpec, rate: float, length: Nanos, rng: Random) -> arrivals.Process:
    match spec.kind:
        case "fixed":
            return arrivals.fixed(rate)
        case "gamma":
            return arrivals.gamma(rate, spec.cv, rng)
        case "on-off":
            return arrivals.on_off(rate, seconds(spec.on_s), seconds(spec.off_s), rng)
        case "ramp" if spec.rate_factor:
            steps = length / seconds(spec.step_s)
            if steps > MAX_STEPS or log(rate) + steps * log(spec.rate_factor) > log(MAX_RATE):
                raise InvalidRequestError(
                    f"rate {rate:g} multiplied by {spec.rate_factor:g} every {spec.step_s:g} s exceeds "
                    f"{MAX_RATE:.0f}/s or {MAX_STEPS} steps"
                )
            return arrivals.steps(rate, spec.rate_factor, seconds(spec.step_s), length, rng)
        case "ramp":
            return arrivals.ramp(rate, spec.rate_end * spec.scale, length, rng)
    return arrivals.poisson(rate, rng)


def _slo(spec: StreamSpec) -> Slo:
    if spec.slo_ladder is not None:
        return spec.slo_ladder.slo()
    return constant(None if spec.slo_ms is None else ms(spec.slo_ms), spec.slo_factor)


def _functions(spec: StreamSpec, models: int, rng: Random, traces: Mapping[str, Sequence[str]]) -> list[list[int]]:
    if spec.trace:
        if spec.trace not in traces:
            raise InvalidRequestError(f"unknown trace {spec.trace!r}; name its file with --trace {spec.trace}=FILE")
        return parse_trace(traces[spec.trace])
    functions = spec.functions or FUNCTIONS_PER_MODEL * models
    return parse_trace(synthetic_trace(functions, spec.rate, spec.start_minute + spec.minutes, rng))


def check_finite(value: object, where: str) -> None:
    """Check that a value contains no ``nan`` or ``inf``, which TOML allows. ``nan`` would pass most checks of ranges.

    Raises:
        InvalidRequestError: ``value`` (a number, struct, dict, list or tuple) is or contains ``nan`` or ``inf``.
    """
    if isinstance(value, float) and not isfinite(value):
        raise InvalidRequestError(f"{where} is {value}; it must be a finite number")
    if isinstance(value, Struct):
        value = asdict(value)
    if isinstance(value, dict):
        for field, inner in value.items():
            check_finite(inner, f"{where}.{field}" if where else str(field))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            check_finite(inner, f"{where}[{place}]")


def _check(spec: StreamSpec) -> None:
    check_finite(spec, "")
    times = (spec.start_s, spec.stop_s or 0.0, spec.on_s, spec.off_s, spec.step_s, spec.think_ms / 1000)
    needs_rate = spec.kind != "closed" and not (spec.kind == "azure" and spec.trace)
    stairs = spec.slo_ladder
    problems = {
        f"a time is out of range; the limit is {MAX_TIME:.0f} s": max(*times, spec.stagger_ms / 1000) > MAX_TIME,
        f"load_factor is {spec.load_factor}; the limit is 1e6": spec.load_factor > 1e6,
        f"functions is {spec.functions}; the range is 0 to {MAX_FUNCTIONS}": not 0 <= spec.functions <= MAX_FUNCTIONS,
        f"start_minute is {spec.start_minute}; the limit is 44640": spec.start_minute > 44_640,
        f"batch_size is {spec.batch_size}; the limit is 65536": spec.batch_size > 65_536,
        f"rate is {spec.rate * spec.scale:g} per second; it must be positive and at most {MAX_RATE:.0f}": needs_rate
        and not 0 < spec.rate * spec.scale <= MAX_RATE,
        f"rate_end is {spec.rate_end} per second; the limit is {MAX_RATE:.0f}": spec.rate_end * spec.scale > MAX_RATE,
        f"scale is {spec.scale}; it must not be negative": spec.scale < 0,
        "rate_end, rate_factor or load_factor is negative; they must be at least 0": min(
            spec.rate_end, spec.rate_factor, spec.load_factor
        )
        < 0,
        f"cv is {spec.cv}; the range is 0.001 to 1000": not 0.001 <= spec.cv <= 1000,
        f"zipf_s is {spec.zipf_s}; it must not be negative": spec.zipf_s < 0,
        "on_s and step_s must be positive, off_s at least 0": min(seconds(spec.on_s), seconds(spec.step_s)) <= 0
        or spec.off_s < 0,
        f"stop_s is {spec.stop_s}; it must be after start_s, {spec.start_s}": spec.stop_s is not None
        and spec.stop_s <= spec.start_s,
        f"concurrency is {spec.concurrency}; the minimum is 1": spec.concurrency < 1,
        "think_ms, stagger_ms and start_s must be at least 0": min(spec.think_ms, spec.stagger_ms, spec.start_s) < 0,
        f"slo_ms is {spec.slo_ms}; it must be above 0 and below 1e9": spec.slo_ms is not None
        and not 0 < spec.slo_ms < 1e9,
        f"slo_factor is {spec.slo_factor}; it must be positive": spec.slo_factor is not None and spec.slo_factor <= 0,
        f"batch_size is {spec.batch_size}; the minimum is 1": spec.batch_size < 1,
        f"active is {spec.active}; the minimum is 1": spec.active < 1,
        f"minute_s is {spec.minute_s}; the range is 0.001 to 60": not 0.001 <= spec.minute_s <= 60,
        "minutes must be 1 to 44640, start_minute at least 0": not 1 <= spec.minutes <= 44_640 or spec.start_minute < 0,
        "slo_ladder needs step_s, factor above 1, and start_ms and max_ms or start_factor and max_factor": stairs
        is not None
        and (
            not MICROSECOND <= seconds(stairs.step_s) <= MAX_TIME * SECOND
            or not 1 < stairs.factor <= 1000
            or 0 < stairs.start_ms < 0.001
            or stairs.max_ms > 1e9
            or stairs.max_factor > 1e9
            or (stairs.start_ms != 0) == (stairs.start_factor != 0)
            or not (0 < stairs.start_ms <= stairs.max_ms or 0 < stairs.start_factor <= stairs.max_factor)
        ),
    }
    for problem, is_one in problems.items():
        if is_one:
            raise InvalidRequestError(problem)
