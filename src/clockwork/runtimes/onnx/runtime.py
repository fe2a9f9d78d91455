"""`OnnxRuntime`: from a path to a model in host memory."""

from functools import partial
from pathlib import Path
from typing import Any

from clockwork.errors import InvalidModelError
from clockwork.heap import measured
from clockwork.messages.tensors import Datatype
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batching import BatchingOptions, Claim, Wish, claim
from clockwork.runtimes.hardware import device_kind, instruction_set
from clockwork.runtimes.onnx.cache import PreparedCache
from clockwork.runtimes.onnx.calm import Calm
from clockwork.runtimes.onnx.files import ModelFile, find, read
from clockwork.runtimes.onnx.model import OnnxModel
from clockwork.runtimes.onnx.packing import worth_packing
from clockwork.runtimes.onnx.prepared import Placeholder, Prepared, prepare, unpacked
from clockwork.runtimes.onnx.rows import analyse
from clockwork.runtimes.onnx.sessions import FAILURES, run, run_with_bfloat16, said, share_one_arena
from clockwork.runtimes.ort import onnxruntime
from clockwork.runtimes.probe import Verdict, examine, feeds
from clockwork.runtimes.sharing import ModelsInUse
from clockwork.runtimes.signature import Signature
from clockwork.runtimes.trial import Run
from clockwork.units import Bytes


class OnnxRuntime:
    """Executes ONNX models with ONNX Runtime on CPUs. See `clockwork.runtimes.base.Runtime`.

    A device is ``threads_per_device`` threads; the first is the one that calls. ``cache_dir`` keeps optimised models
    from one start to the next; it grows by about the size of every model, and the least recently used leave it when it
    would exceed ``cache_bytes``; without that, none ever does.
    """

    def __init__(
        self,
        threads_per_device: int = 1,
        cache_dir: Path | None = None,
        cache_bytes: Bytes | None = None,
        batching: BatchingOptions | None = None,
    ) -> None:
        if threads_per_device < 1:
            raise ValueError(f"threads_per_device is {threads_per_device}; a device has at least one thread")
        share_one_arena()
        self._threads = threads_per_device
        self._cache = PreparedCache(cache_dir, cache_bytes)
        self._kind = device_kind(threads_per_device)
        self._placeholder = Placeholder()
        self._calm = Calm()
        self._models = ModelsInUse[OnnxModel]()
        self._batching = batching or BatchingOptions()

    @property
    def version(self) -> str:
        """Name and version, ``onnxruntime 1.32.0``."""
        return version()

    @property
    def device_kind(self) -> str:
        """The CPU and the threads that a device uses of it."""
        return self._kind

    def load_model(self, path: Path, name: str = "") -> OnnxModel:
        """Read, optimise and try a model. A model of the same content that is still in use is returned as it is.

        Models of one content for which the operator wishes different things are different models.

        Raises:
            InvalidModelError: not a model of this runtime, or a broken one.
        """
        wish = self._batching.of(name, path)
        file = read(find(path))
        return self._models.get(wish.digest(file.digest), partial(self._load, file, wish))

    def _load(self, file: ModelFile, wish: Wish) -> OnnxModel:
        conditions = (version(), self._kind, instruction_set(), str(wish))
        prepared, verdict = self._cache.get(file.digest, conditions, partial(self._prepared, file, wish))
        placeholder = self._placeholder if verdict.in_place else None
        info = host_info(file, prepared, verdict, wish)
        return OnnxModel(info, prepared, self._threads, placeholder, verdict.packed, self._calm)

    def _prepared(self, file: ModelFile, wish: Wish) -> tuple[Prepared, Verdict]:
        original, prepared = prepare(file.path, self._threads, self._cache.scratch)
        return prepared, self._examined(file, original, prepared, claim(wish, partial(analyse, file.outline)))

    def _examined(self, file: ModelFile, original: Any, prepared: Prepared, claimed: Claim) -> Verdict:
        """Try the prepared model with its weights in place; where that fails, it must at least load with copies."""
        packed = self._packs(prepared)
        if not packed:
            del original  # not both at once
            original = unpacked(file.path, self._threads)
        with_original = runner(prepared.ports, original)
        try:
            session, session_bytes = self._session(prepared, self._placeholder, packed)
        except FAILURES:
            pass
        else:
            verdict = examine(prepared.ports, with_original, runner(prepared.ports, session), claimed)
            if verdict.in_place:
                return Verdict(True, verdict.unbatched, packed, session_bytes)
            del session
        try:
            session, session_bytes = self._session(prepared, None, packed)
        except FAILURES as error:
            raise InvalidModelError(
                f"ONNX Runtime cannot load {file.path.name!r} once it is optimised: {said(error)}"
            ) from error
        verdict = examine(prepared.ports, with_original, runner(prepared.ports, session), claimed)
        return Verdict(False, verdict.unbatched, packed, session_bytes)

    def _session(self, prepared: Prepared, placeholder: Placeholder | None, packed: bool) -> tuple[Any, Bytes]:
        """A session, and what it takes of the heap."""
        return measured(partial(prepared.session, self._threads, placeholder, packed))

    def _packs(self, prepared: Prepared) -> bool:
        """Whether packed weights are worth it. Tried with weights in place; where they cannot be, they are packed."""
        try:
            packed, with_packed = self._session(prepared, self._placeholder, True)
            plain, without = self._session(prepared, self._placeholder, False)
        except FAILURES:
            return True
        packed_run, plain_run = runner(prepared.ports, packed), runner(prepared.ports, plain)
        return worth_packing(packed_run, plain_run, feeds(prepared.ports, packed_run), with_packed - without)


def version() -> str:
    """Name and version, ``onnxruntime 1.32.0``."""
    return f"onnxruntime {onnxruntime.__version__}"


def host_info(file: ModelFile, prepared: Prepared, verdict: Verdict, wish: Wish) -> HostModelInfo:
    """What is known of a model that has been prepared and tried."""
    return HostModelInfo(
        digest=wish.digest(file.digest),
        inputs=tuple(port.info for port in prepared.ports.inputs),
        outputs=tuple(port.info for port in prepared.ports.outputs),
        batchable=not verdict.unbatched,
        weights_bytes=prepared.nbytes + verdict.session_bytes,
        runtime=version(),
        unbatched=verdict.unbatched,
        max_batch=wish.max_batch,
    )


def runner(ports: Signature, session: Any) -> Run:
    """A session as `clockwork.runtimes.probe` takes it."""
    everything = [port.info for port in ports.inputs + ports.outputs]
    execute = run_with_bfloat16 if any(info.datatype == Datatype.BF16 for info in everything) else run
    return partial(execute, session, [port.info.name for port in ports.outputs])
