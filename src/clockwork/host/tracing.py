"""Starts the tracing of requests."""

from collections.abc import Callable
from random import Random

from clockwork.clock import Clock
from clockwork.host.process_tuning import begin_background_thread
from clockwork.state import ClockworkState
from clockwork.tracing.config import TracingConfig
from clockwork.tracing.tracer import Tracer


def make_tracer(config: TracingConfig | None, clock: Clock, state: Callable[[], ClockworkState]) -> Tracer | None:
    """Return the tracer of a controller, and start its thread. Without a configuration, return None.

    ``state`` returns the controller's state.

    Raises:
        ServerError: the OpenTelemetry SDK is not installed, or a variable of the exporter has a wrong value.
    """
    if config is None:
        return None
    from clockwork.tracing.exporting import export_thread

    return Tracer(config, clock, state, export_thread(config, begin_background_thread), Random().getrandbits)
