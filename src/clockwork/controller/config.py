"""The controller's configuration, with all its limits."""

from enum import Enum
from typing import Final

from msgspec import Struct

from clockwork.messages.profile import MIN_SAMPLES
from clockwork.units import GIB, MIB, MILLISECOND, SECOND, Bytes, Nanos


class LoadSpec(Struct, frozen=True):
    """A model for the controller to load at the start."""

    path: str
    name: str = ""
    no_of_copies: int = 1


class ProfilingConfig(Struct, frozen=True):
    """How models are measured.

    LoadWeights and each batch size of Infer are first executed ``warmups`` times without measuring. Then they are
    measured as often as ``budget`` permits, but at least ``min_samples`` and at most ``max_samples`` times. Batch sizes
    are the powers of two up to ``max_batch_size``. A batch size that takes longer than ``max_exec`` is left out, as in
    the original system, and so are all larger ones. Free dimensions other than the batch dimension are set to
    ``free_dim``, unless the worker found inputs that the model accepts. A measurement that fails is tried ``attempts``
    times in all. If a model accepts no inputs that can be generated, its requests are planned with ``unmeasured_cap``
    until one of them was executed.

    The other fields are about models that are loaded while serving (`clockwork.controller.live_measuring`). They are
    ready after ``ready_samples`` measurements of one row. Measurements take at most ``live_share`` of a device's time
    while the server is busy. Each one has the SLO ``live_slo``; a refused one is tried again after ``live_retry``.
    ``max_first_exec`` is reserved for the first execution of a model if nothing is known about it.
    """

    max_batch_size: int = 16
    max_exec: Nanos = 250 * MILLISECOND
    warmups: int = 2
    min_samples: int = MIN_SAMPLES
    max_samples: int = 100
    budget: Nanos = 1 * SECOND
    free_dim: int = 128
    attempts: int = 3
    unmeasured_cap: Nanos = 50 * MILLISECOND
    ready_samples: int = 3
    live_share: float = 0.05
    live_slo: Nanos = 10 * SECOND
    live_retry: Nanos = 100 * MILLISECOND
    max_first_exec: Nanos = 1 * SECOND


DEFAULT_VERIFIED_SHARE: Final = 0.001
"""Share of batches that are checked. One request of each such batch is executed again, as a batch of one."""


class VerifyingConfig(Struct, frozen=True):
    """How batches are checked in service: some of their requests are executed again, each as a batch of one.

    For each batch size and input shape of a model, two requests of the first batch are checked. After that, a ``share``
    of all batches is checked with one request each. At most ``max_waiting`` requests wait for their check, with at most
    ``max_bytes`` of inputs and outputs together. The last ``max_uses`` sizes and shapes are remembered. The request of
    a check has the SLO ``slo``; a check is tried ``attempts`` times.
    """

    share: float = DEFAULT_VERIFIED_SHARE
    max_waiting: int = 64
    max_bytes: Bytes = 32 * MIB
    max_uses: int = 4096
    slo: Nanos = 60 * SECOND
    attempts: int = 3


class ControlMode(Enum):
    """When models are loaded; Triton's terms."""

    NONE = "none"  #: at start-up only
    EXPLICIT = "explicit"  #: also when a client requests it
    POLL = "poll"  #: also when the model repository changes


class ControllerConfig(Struct, frozen=True):
    """How a controller starts up, and its limits.

    - ``workers``: the number of workers that QUERYING waits for
    - ``models``: if set, the controller loads these models and LOADING ends when they are loaded; otherwise clients
      load models, and LOADING ends ``load_timeout`` after the last activity
    - ``control``: whether clients may load and unload models while the server serves
    - ``strict``: start-up fails if any of ``models`` cannot be loaded or measured; otherwise the others are served
    - ``initializing_timeout``: how long a request waits for SERVING before it is answered with INITIALIZING
    - ``query_timeout``: a worker that takes longer to report its state is dropped
    - ``default_slo``: the SLO of requests that set none; ``model_slos`` overrides it for a model, or for all copies
      that were loaded under a name
    - ``max_slo``: the longest SLO that a request may set
    - ``loads_per_worker``: the number of model loads that are outstanding at a worker at a time
    - ``verifying``: how batches are checked; None: batches are not checked

    The other fields are limits, beyond which requests are refused: ``max_copies`` of one load, ``max_loads`` pending
    loads, ``max_pending`` and ``max_pending_bytes`` of the whole server, ``max_client_pending`` and
    ``max_client_bytes`` of one connection.
    """

    workers: int = 1
    models: tuple[LoadSpec, ...] = ()
    control: ControlMode = ControlMode.NONE
    strict: bool = False
    load_timeout: Nanos = 10 * SECOND
    initializing_timeout: Nanos = 10 * SECOND
    query_timeout: Nanos = 60 * SECOND
    default_slo: Nanos = 100 * MILLISECOND
    model_slos: dict[str, Nanos] = {}
    max_slo: Nanos = 24 * 3600 * SECOND
    loads_per_worker: int = 4
    max_copies: int = 10_000
    max_pending: int = 10_000
    max_pending_bytes: Bytes = 2 * GIB
    max_client_pending: int = 5_000
    max_client_bytes: Bytes = GIB
    max_loads: int = 10_000
    profiling: ProfilingConfig = ProfilingConfig()
    verifying: VerifyingConfig | None = VerifyingConfig()


DEFAULT: Final = ControllerConfig()
"""The default configuration."""
