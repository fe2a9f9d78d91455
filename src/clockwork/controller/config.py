"""What an operator may choose about a controller; every limit has its name and its unit here."""

from typing import Final

from msgspec import Struct

from clockwork.messages.profile import MIN_SAMPLES
from clockwork.units import GIB, MIB, MILLISECOND, SECOND, Bytes, Nanos


class LoadSpec(Struct, frozen=True):
    """One LoadModelFromDisk that the operator gave at the start."""

    path: str
    name: str = ""
    no_of_copies: int = 1


class ProfilingConfig(Struct, frozen=True):
    """How much is measured.

    Of each thing, ``min_samples`` to ``max_samples`` samples are kept: as many as fit into ``budget``. Batch sizes are
    the powers of two up to ``max_batch_size``; one that takes longer than ``max_exec`` is left out (the original's
    ``max_exec``), and so are those above it. Free dimensions other than the batch are measured at ``free_dim``.
    """

    max_batch_size: int = 16
    max_exec: Nanos = 250 * MILLISECOND
    warmups: int = 2
    min_samples: int = MIN_SAMPLES
    max_samples: int = 100
    budget: Nanos = 1 * SECOND
    free_dim: int = 128
    attempts: int = 3


DEFAULT_VERIFIED_SHARE: Final = 0.001
"""Share of batches of which a request is executed again alone."""


class VerifyingConfig(Struct, frozen=True):
    """How batches are checked in service: requests that were executed in one are executed again alone.

    Two requests are checked of the first batch of each size and shape of a model, and one request of a ``share`` of all
    batches. At most ``max_waiting`` requests wait for their check, with ``max_bytes`` of inputs and outputs together.
    The ``max_uses`` sizes and shapes that came last are known as used. A check has ``slo`` to be executed, and is tried
    ``attempts`` times.
    """

    share: float = DEFAULT_VERIFIED_SHARE
    max_waiting: int = 64
    max_bytes: Bytes = 32 * MIB
    max_uses: int = 4096
    slo: Nanos = 60 * SECOND
    attempts: int = 3


class ControllerConfig(Struct, frozen=True):
    """How a controller starts up, and its limits.

    ``workers``: how many workers QUERYING waits for. ``models``: if given, these are loaded and LOADING ends with
    them; otherwise clients load, and LOADING ends ``load_timeout`` after the last activity. ``initializing_timeout``:
    how long a request is buffered before it is told that the server is starting. ``query_timeout``: a worker that has
    not told its state by then is dropped. ``default_slo``: of requests that bring none; ``model_slos`` in its place, by
    the name of a model, or of all copies that were loaded by that name. ``verifying``: how batches are checked; None:
    not at all. The rest are limits; beyond them requests are refused: ``max_pending`` and ``max_pending_bytes`` of the
    whole server, ``max_client_pending`` and ``max_client_bytes`` of one connection.
    """

    workers: int = 1
    models: tuple[LoadSpec, ...] = ()
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
