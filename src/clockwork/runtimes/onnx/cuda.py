"""Executes ONNX models on CUDA devices (`OnnxCudaRuntime`). This code has not run on a real device yet.

Theory of operation. A graph that is optimised for the CPU is slow on a GPU. So the graph in host memory has only the
optimisations that are valid on every device. A LoadWeights action opens a session. The session optimises the graph for
its device and copies the weights to the device. ONNX Runtime manages the device's memory
(`clockwork.runtimes.onnx.gpus`). The pages of the weights cache are only counted, to limit the memory for weights. The
pages are never mapped.

The trial that decides whether requests can be batched runs on the CPU, with the original file.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from clockwork.arrays import Array
from clockwork.errors import InvalidRequestError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batches import NO_ROW
from clockwork.runtimes.batching import BatchingOptions, BatchingPolicy, plan_trial
from clockwork.runtimes.common import ModelRuntime, weights_error
from clockwork.runtimes.examples import find_example
from clockwork.runtimes.nvidia import Gpu
from clockwork.runtimes.onnx.cache import PreparedCache
from clockwork.runtimes.onnx.closing import CloseTiming
from clockwork.runtimes.onnx.files import ModelFile, find, read
from clockwork.runtimes.onnx.gpus import Gpus, nodes_on_cpu
from clockwork.runtimes.onnx.model import LoadedOnnxModel
from clockwork.runtimes.onnx.prepared import PreparedModel, prepare
from clockwork.runtimes.onnx.rows import analyse
from clockwork.runtimes.onnx.runtime import example_row, prepared_info, runner, search_for, version
from clockwork.runtimes.onnx.sessions import FAILURES, LIBRARY, check_not_lost, describe
from clockwork.runtimes.probe import Verdict, observed, try_model
from clockwork.units import GIB, Bytes, show_bytes

CACHE_SHARE: Final = 0.8
"""Default share of a device's free memory for weights and workspace. The CUDA libraries need the remaining memory."""

DEFAULT_WORKSPACE_BYTES: Final[Bytes] = 2 * GIB
"""Default memory of each device for the intermediate results of inferences."""

log = logging.getLogger("clockwork.worker")


def cache_bytes_of(gpus: Sequence[Gpu], workspace_bytes: Bytes, page_size: Bytes) -> Bytes:
    """Return the default size of each device's weights cache in bytes. The size is a whole number of pages.

    Raises:
        InvalidRequestError: the free memory is too small for one page.
    """
    free = min(gpu.memory if gpu.free is None else gpu.free for gpu in gpus)
    pages = (int(free * CACHE_SHARE) - workspace_bytes) // page_size
    if pages < 1:
        raise InvalidRequestError(
            f"{gpus[0].name} has {show_bytes(free)} free; {show_bytes(workspace_bytes)} of workspace leave no room for "
            f"a page of {show_bytes(page_size)}: free the device's memory, or set --cache-size and a smaller "
            "--workspace-size"
        )
    return pages * page_size


class OnnxCudaRuntime(ModelRuntime[ModelFile, "OnnxCudaModel"]):
    """Executes ONNX models with ONNX Runtime on CUDA devices."""

    def __init__(
        self,
        gpus: Gpus,
        cache_bytes: Bytes,
        workspace_bytes: Bytes,
        cache_dir: Path | None = None,
        cache_dir_bytes: Bytes | None = None,
        batching: BatchingOptions | None = None,
    ) -> None:
        """Each device has ``cache_bytes`` for weights and ``workspace_bytes`` for intermediate results.

        For ``cache_dir`` and ``cache_dir_bytes``, see `clockwork.runtimes.onnx.runtime.OnnxRuntime`.

        Raises:
            InvalidRequestError: ONNX Runtime cannot use the devices. The message contains the reason and a remedy.
        """
        super().__init__(version(), gpus.kind, batching)
        gpus.reserve(cache_bytes + workspace_bytes)
        self.cache_bytes = cache_bytes
        self._gpus = gpus
        self._cache = PreparedCache(cache_dir, cache_dir_bytes)
        self._close_timing = CloseTiming()

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file for a path, by the rules of `clockwork.runtimes.locating.locate`."""
        return find(path, name, self.links)

    def _read(self, path: Path) -> ModelFile:
        return read(path, self.links)

    def _prepare(self, file: ModelFile, policy: BatchingPolicy) -> "OnnxCudaModel":
        conditions = (self.version, self.device_kind, str(policy))
        prepared, verdict = self._cache.get(file.digest, conditions, partial(self._optimise_and_try, file, policy))
        info = prepared_info(file, prepared, verdict, policy)
        row = example_row(prepared, verdict, policy)
        return OnnxCudaModel(info, prepared, self._gpus, self._close_timing, row)

    def _optimise_and_try(self, file: ModelFile, policy: BatchingPolicy) -> tuple[PreparedModel, Verdict]:
        original, prepared = prepare(file, 1, self._cache.scratch, portable=True)
        run = runner(prepared.ports, original)
        example = find_example(prepared.ports, run, search_for(file, policy))
        prepared.ports = observed(prepared.ports, run, example)
        verdict = try_model(prepared.ports, run, run, plan_trial(policy, partial(analyse, file.outline)), example)
        return prepared, replace(verdict, in_place=False)


class OnnxCudaModel:
    """A model in host memory. The graph has only the optimisations that are valid for all devices."""

    def __init__(
        self,
        info: HostModelInfo,
        prepared: PreparedModel,
        gpus: Gpus,
        close_timing: CloseTiming,
        example: Mapping[str, Array] = NO_ROW,
    ) -> None:
        """``example`` contains the elements of generated inputs that are not all zeros."""
        self._example = example
        self.info: Final = info
        self._prepared = prepared
        self._gpus = gpus
        self._close_timing = close_timing
        self._assignment_checked = False

    def load_weights(self, device: int) -> LoadedOnnxModel:
        """Open a session on the device, with a copy of the weights.

        Raises:
            DeviceLostError: the device can no longer execute anything.
            ServerError: ONNX Runtime could not open the session.
        """
        first, self._assignment_checked = not self._assignment_checked, True
        try:
            session = self._prepared.portable_session(self._gpus.provider(device), recorded=first)
        except FAILURES as error:
            check_not_lost(error)
            raise weights_error(LIBRARY, self.info.weights_bytes, device, describe(error)) from error
        # releases of ONNX Runtime before 1.24 lack this function
        if first and hasattr(session, "get_provider_graph_assignment_info"):
            on_cpu = nodes_on_cpu(session.get_provider_graph_assignment_info())
            if on_cpu:
                log.warning("model %.12s is slower than it could be: %s", self.info.digest, on_cpu)
        return LoadedOnnxModel(self.info, session, self._prepared, self._close_timing, self._example)
