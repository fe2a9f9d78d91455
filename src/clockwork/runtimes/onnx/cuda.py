"""`OnnxCudaRuntime`: from a path to a model in host memory, for CUDA devices. Not yet run on a real device.

Theory of operation. The graph that suits this CPU does not suit another device, so it is optimised as far as holds for
all, once; LoadWeights makes a session, which optimises for its device and copies the weights there. The memory is ONNX
Runtime's own (`clockwork.runtimes.onnx.gpus`): pages of the weights cache are an account of it, and no mapping.

Whether requests can be batched is tried on the CPU, with the file as it is.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batching import BatchingOptions, Wish, claim
from clockwork.runtimes.nvidia import Gpu
from clockwork.runtimes.onnx.cache import PreparedCache
from clockwork.runtimes.onnx.calm import Calm
from clockwork.runtimes.onnx.files import ModelFile, find, read
from clockwork.runtimes.onnx.gpus import Gpus, where
from clockwork.runtimes.onnx.model import LoadedOnnxModel
from clockwork.runtimes.onnx.prepared import Prepared, prepare
from clockwork.runtimes.onnx.rows import analyse
from clockwork.runtimes.onnx.runtime import host_info, runner, version
from clockwork.runtimes.onnx.sessions import FAILURES, check_not_lost, said
from clockwork.runtimes.probe import Verdict, examine
from clockwork.runtimes.sharing import ModelsInUse
from clockwork.units import GIB, Bytes, show_bytes

CACHE_SHARE: Final = 0.8
"""The part of a device's free memory that weights and workspace take if nothing was said: the libraries of CUDA need
some, too."""

WORKSPACE_BYTES: Final[Bytes] = 2 * GIB
"""Of each device, for what inferences compute in, if nothing was said."""

log = logging.getLogger("clockwork.worker")


def cache_bytes_of(gpus: Sequence[Gpu], workspace_bytes: Bytes, page_size: Bytes) -> Bytes:
    """The weights cache of each device if nothing was said: whole pages.

    Raises:
        InvalidRequestError: there is no room for a page.
    """
    free = min(gpu.memory if gpu.free is None else gpu.free for gpu in gpus)
    pages = (int(free * CACHE_SHARE) - workspace_bytes) // page_size
    if pages < 1:
        raise InvalidRequestError(
            f"of {show_bytes(free)} that are free on {gpus[0].name}, {show_bytes(workspace_bytes)} of workspace leave "
            f"no room for a page of {show_bytes(page_size)}: free the device's memory, or give --cache-size and a "
            "smaller --workspace-size"
        )
    return pages * page_size


class OnnxCudaRuntime:
    """Executes ONNX models with ONNX Runtime on CUDA devices. See `clockwork.runtimes.base.Runtime`."""

    def __init__(
        self,
        gpus: Gpus,
        cache_bytes: Bytes,
        workspace_bytes: Bytes,
        cache_dir: Path | None = None,
        cache_dir_bytes: Bytes | None = None,
        batching: BatchingOptions | None = None,
    ) -> None:
        """``cache_bytes`` of each device for weights, ``workspace_bytes`` for what inferences need beside them.

        ``cache_dir`` and ``cache_dir_bytes`` are as in `clockwork.runtimes.onnx.runtime.OnnxRuntime`.

        Raises:
            InvalidRequestError: ONNX Runtime cannot use the devices; says why, and what to do.
        """
        gpus.take(cache_bytes + workspace_bytes)
        self.cache_bytes = cache_bytes
        self._gpus = gpus
        self._cache = PreparedCache(cache_dir, cache_dir_bytes)
        self._calm = Calm()
        self._models = ModelsInUse[OnnxCudaModel]()
        self._batching = batching or BatchingOptions()

    @property
    def version(self) -> str:
        """Name and version, ``onnxruntime 1.31.1``."""
        return version()

    @property
    def device_kind(self) -> str:
        """``cuda NVIDIA H100 80GB HBM3``."""
        return self._gpus.kind

    def load_model(self, path: Path, name: str = "") -> "OnnxCudaModel":
        """Read and try a model. A model of the same content that is still in use is returned as it is.

        Raises:
            InvalidModelError: not a model of this runtime, or a broken one.
        """
        wish = self._batching.of(name, path)
        file = read(find(path))
        return self._models.get(wish.digest(file.digest), partial(self._load, file, wish))

    def _load(self, file: ModelFile, wish: Wish) -> "OnnxCudaModel":
        conditions = (version(), self._gpus.kind, str(wish))
        prepared, verdict = self._cache.get(file.digest, conditions, partial(self._prepared, file, wish))
        return OnnxCudaModel(host_info(file, prepared, verdict, wish), prepared, self._gpus, self._calm)

    def _prepared(self, file: ModelFile, wish: Wish) -> tuple[Prepared, Verdict]:
        original, prepared = prepare(file.path, 1, self._cache.scratch, portable=True)
        run = runner(prepared.ports, original)
        verdict = examine(prepared.ports, run, run, claim(wish, partial(analyse, file.outline)))
        return prepared, Verdict(in_place=False, unbatched=verdict.unbatched)


class OnnxCudaModel:
    """A model in host memory: its graph, optimised as far as holds for all devices, and its weights."""

    def __init__(self, info: HostModelInfo, prepared: Prepared, gpus: Gpus, calm: Calm) -> None:
        self._info = info
        self._prepared = prepared
        self._gpus = gpus
        self._calm = calm
        self._told = False

    @property
    def info(self) -> HostModelInfo:
        """What is known of it."""
        return self._info

    def load_weights(self, device: int) -> LoadedOnnxModel:
        """Make a session on the device, with a copy of the weights.

        Raises:
            DeviceLostError: nothing could, any more.
            ServerError: ONNX Runtime could not, or not on this device.
        """
        first, self._told = not self._told, True
        try:
            session = self._prepared.portable_session(self._gpus.provider(device), recorded=first)
        except FAILURES as error:
            check_not_lost(error)
            raise ServerError(
                f"ONNX Runtime could not load {show_bytes(self._info.weights_bytes)} of weights on device {device}: "
                f"{said(error)}"
            ) from error
        if first and hasattr(session, "get_provider_graph_assignment_info"):  # since 1.24
            elsewhere = where(session.get_provider_graph_assignment_info())
            if elsewhere:
                log.warning("model %.12s is slower than it could be: %s", self._info.digest, elsewhere)
        return LoadedOnnxModel(self._info, session, self._prepared, self._calm)
