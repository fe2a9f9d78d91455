"""Defines the configuration of the controller, with all its limits."""

from enum import Enum
from typing import Final

from msgspec import Struct

from clockwork.messages.profile import MIN_SAMPLES
from clockwork.units import GIB, MIB, MILLISECOND, SECOND, Bytes, Nanos


class LoadSpec(Struct, frozen=True):
    """A model that the controller loads at its start.

    - ``version``: the number of the version; if it is empty, the path determines the version
    - ``key``: the model's name on workers; if it is empty, the controller chooses a free name (``name`` for the first
      version)
    """

    path: str
    name: str = ""
    no_of_copies: int = 1
    version: str = ""
    key: str = ""


class ShadowSpec(Struct, frozen=True):
    """A version that executes copies of a ``share`` of the live requests; ``share`` is more than 0 and at most 1."""

    version: str
    share: float


class DesiredModels(Struct, frozen=True):
    """The models that a controller should serve after a restart, and the workers that it knows.

    - ``models``: the versions to load; each has a name and a key
    - ``promoted``, ``labels``, ``slos``, ``shadows``: the default versions, labels, SLOs and shadows by model name
    - ``workers``: number of workers that were connected
    """

    models: tuple[LoadSpec, ...] = ()
    promoted: dict[str, str] = {}
    labels: dict[str, dict[str, str]] = {}
    slos: dict[str, Nanos] = {}
    workers: int = 0
    shadows: dict[str, ShadowSpec] = {}


class ProfilingConfig(Struct, frozen=True):
    """Configures how models are measured.

    LoadWeights, and an Infer of each batch size, are first executed ``warmups`` times without being measured. After
    that, each of these actions is measured as often as the time ``budget`` allows, but at least ``min_samples`` and at
    most ``max_samples`` times. Batch sizes are the powers of two up to ``max_batch_size``. If a batch size takes longer
    than ``max_exec``, this size and all larger sizes are left out, as in the original system. Free dimensions other
    than the batch dimension are set to ``free_dim``, unless the worker found inputs that the model accepts. A
    measurement that fails is repeated, up to ``attempts`` attempts in total. If a model refuses all generated inputs,
    its requests are planned with the time ``unmeasured_cap``, until the first request has been executed.

    The other fields apply to models that are loaded while serving (`clockwork.controller.live_measuring`). Such a model
    is ready after ``ready_samples`` measurements with one row. A server is busy if a client has sent a request in the
    last ``live_quiet``. On a busy server, measurements take at most ``live_share`` of a device's time. On a busy
    server, a large model is ready when its executions have taken ``ready_budget`` in total, and each batch size is
    executed for about ``live_budget`` at most. Each measurement has the SLO ``live_slo``. A refused measurement is
    tried again after ``live_retry``. If no execution time of a model is known, ``max_first_exec`` is reserved for its
    first execution.
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
    live_quiet: Nanos = 5 * SECOND
    ready_budget: Nanos = 50 * MILLISECOND
    live_budget: Nanos = 250 * MILLISECOND
    live_slo: Nanos = 10 * SECOND
    live_retry: Nanos = 100 * MILLISECOND
    max_first_exec: Nanos = 1 * SECOND


DEFAULT_VERIFIED_SHARE: Final = 0.001
"""Default share of batches that are checked. A check executes one request of the batch again, as a batch of one."""


class VerifyingConfig(Struct, frozen=True):
    """Configures how batches are checked while serving. A check executes a request of a batch again, as a batch of one.

    For each batch size and input shape of a model, two requests of the first batch are checked. After that, the share
    ``share`` of all batches is checked, with one request of each batch. At most ``max_waiting`` requests wait for their
    check. Together, the inputs and outputs of these requests have at most ``max_bytes``. The ``max_uses`` most recent
    pairs of batch size and input shape are remembered. The request of a check has the SLO ``slo``. A check has up to
    ``attempts`` attempts.
    """

    share: float = DEFAULT_VERIFIED_SHARE
    max_waiting: int = 64
    max_bytes: Bytes = 32 * MIB
    max_uses: int = 4096
    slo: Nanos = 60 * SECOND
    attempts: int = 3


class ShadowingConfig(Struct, frozen=True):
    """Configures how shadows execute copies of live requests (`clockwork.controller.shadowing`).

    At most ``max_waiting`` copies wait for their execution. Their inputs and outputs together have at most
    ``max_bytes``. A copy has the SLO ``slo`` and is tried ``attempts`` times. The execution time of a copy is limited
    by the spare time of the live requests in the last ``window``.
    """

    max_waiting: int = 64
    max_bytes: Bytes = 16 * MIB
    slo: Nanos = 60 * SECOND
    attempts: int = 3
    window: Nanos = 10 * SECOND


class ControlMode(Enum):
    """Modes that decide when models are loaded. The terms are Triton's."""

    NONE = "none"  #: models are loaded only at start-up
    EXPLICIT = "explicit"  #: models are also loaded when a client requests it
    POLL = "poll"  #: models are also loaded when the model repository changes


class ControllerConfig(Struct, frozen=True):
    """Configures how a controller starts, and its limits.

    - ``workers``: the number of workers that QUERYING waits for
    - ``models``: the models that the controller loads; LOADING ends when they are loaded. If the list is empty, clients
      load models, and LOADING ends ``load_timeout`` after the last start or end of a load
    - ``control``: whether clients may load and unload models while the server serves
    - ``unusable``: models that cannot be loaded, with the reasons; the host finds these models before the start
    - ``only_named``: whether workers unload the models of an earlier controller that are not in ``models``
    - ``labels``: for each model name, a table that maps the model's labels to versions
    - ``promoted``: the default versions of models; by default the highest ready version
    - ``shadows``: for each model name, the version that executes copies of the model's requests
    - ``worker_wait``: the longest time that QUERYING waits for ``workers`` after the first worker has connected; if it
      is None, there is no limit
    - ``pushes_models``: whether the controller sends the files of models to workers that lack them
    - ``saves_models``: whether `SaveModels` follows each change of the served models
    - ``strict``: whether start-up fails if any of ``models`` cannot be loaded or measured; without it, the other models
      are served
    - ``initializing_timeout``: the time that a request waits for SERVING before it is answered with INITIALIZING
    - ``query_timeout``: the time after which a worker is dropped if it has not reported its state
    - ``default_slo``: the SLO of requests that set none; ``model_slos`` overrides it for a model, or for all copies
      that were loaded under a name
    - ``max_slo``: the longest SLO that a request may set
    - ``loads_per_worker``: the largest number of outstanding model loads per worker
    - ``verifying``: how batches are checked; if it is None, batches are not checked
    - ``shadowing``: how copies of live requests are executed
    - ``explain_requests``: number of sampled requests in time that are kept to explain requests; if it is 0, requests
      are not recorded
    - ``explain_failures``: number of requests that are kept of each other outcome, and of each reason of refusals

    The other fields are limits. Requests that exceed a limit are refused. ``max_copies`` is the limit of the copies of
    one load, and ``max_loads`` the limit of pending loads. ``max_pending`` and ``max_pending_bytes`` limit the pending
    requests of the whole server. ``max_client_pending`` and ``max_client_bytes`` limit the pending requests of one
    connection.
    """

    workers: int = 1
    models: tuple[LoadSpec, ...] = ()
    control: ControlMode = ControlMode.NONE
    unusable: dict[str, str] = {}
    only_named: bool = False
    labels: dict[str, dict[str, str]] = {}
    promoted: dict[str, str] = {}
    shadows: dict[str, ShadowSpec] = {}
    worker_wait: Nanos | None = None
    saves_models: bool = False
    pushes_models: bool = False
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
    shadowing: ShadowingConfig = ShadowingConfig()
    explain_requests: int = 5_000
    explain_failures: int = 500


DEFAULT: Final = ControllerConfig()
"""The default configuration."""
