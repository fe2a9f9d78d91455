"""`OnnxRuntime`: from a path to a model in host memory."""

from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import onnxruntime

from clockwork.errors import InvalidModelError
from clockwork.messages.tensors import Datatype
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.onnx import cache
from clockwork.runtimes.onnx.files import ModelFile, find, read
from clockwork.runtimes.onnx.hardware import device_kind, instruction_set
from clockwork.runtimes.onnx.model import OnnxModel
from clockwork.runtimes.onnx.prepared import Placeholder, Prepared, prepare
from clockwork.runtimes.onnx.probe import Run, Verdict, examine
from clockwork.runtimes.onnx.sessions import FAILURES, run, run_with_bfloat16, said, share_one_arena
from clockwork.runtimes.onnx.signature import Signature


class OnnxRuntime:
    """Executes ONNX models with ONNX Runtime on CPUs. See `clockwork.runtimes.base.Runtime`.

    A device is ``threads_per_device`` threads; the first is the one that calls. ``cache_dir`` keeps optimised models
    from one start to the next; it grows by about the size of every model, and nothing is ever removed from it.
    """

    def __init__(self, threads_per_device: int = 1, cache_dir: Path | None = None) -> None:
        if threads_per_device < 1:
            raise ValueError(f"threads_per_device is {threads_per_device}; a device has at least one thread")
        share_one_arena()
        if cache_dir is not None:
            cache_dir.mkdir(parents=True, exist_ok=True)
        self._threads = threads_per_device
        self._cache_dir = cache_dir
        self._kind = device_kind(threads_per_device)
        self._placeholder = Placeholder()
        self._lock = Lock()
        self._models: WeakValueDictionary[str, OnnxModel] = WeakValueDictionary()

    @property
    def version(self) -> str:
        """Name and version, ``onnxruntime 1.32.0``."""
        return f"onnxruntime {onnxruntime.__version__}"

    @property
    def device_kind(self) -> str:
        """The CPU and the threads that a device uses of it."""
        return self._kind

    def load_model(self, path: Path) -> OnnxModel:
        """Read, optimise and try a model. A model of the same content that is still in use is returned as it is.

        Raises:
            InvalidModelError: not a model of this runtime, or a broken one.
        """
        file = read(find(path))
        with self._lock:  # one at a time: preparing takes several times the model's size of memory
            model = self._models.get(file.digest)
            if model is None:
                model = self._models[file.digest] = self._load(file)
        return model

    def _load(self, file: ModelFile) -> OnnxModel:
        prepared, verdict = self._prepared(file)
        info = HostModelInfo(
            digest=file.digest,
            inputs=tuple(port.info for port in prepared.ports.inputs),
            outputs=tuple(port.info for port in prepared.ports.outputs),
            batchable=verdict.batchable,
            weights_bytes=prepared.nbytes,
        )
        return OnnxModel(info, prepared, self._threads, self._placeholder if verdict.in_place else None)

    def _prepared(self, file: ModelFile) -> tuple[Prepared, Verdict]:
        entry = None
        if self._cache_dir is not None:
            entry = cache.entry(self._cache_dir, file.digest, self.version, self._kind, instruction_set())
            known = cache.load(entry)
            if known is not None:
                return known
        original, prepared = prepare(file.path, self._threads, self._cache_dir)
        verdict = self._examined(file, original, prepared)
        if entry is not None:
            cache.save(entry, prepared, verdict)
        return prepared, verdict

    def _examined(self, file: ModelFile, original: Any, prepared: Prepared) -> Verdict:
        """Try the prepared model with its weights in place; where that fails, it must at least load with copies."""
        with_original = _runner(prepared.ports, original)
        try:
            in_place = prepared.session(self._threads, self._placeholder)
        except FAILURES:
            try:
                copied = prepared.session(self._threads, None)
            except FAILURES as error:
                raise InvalidModelError(
                    f"ONNX Runtime cannot load {file.path.name!r} once it is optimised: {said(error)}"
                ) from error
            verdict = examine(prepared.ports, with_original, _runner(prepared.ports, copied))
            return Verdict(in_place=False, batchable=verdict.batchable)
        return examine(prepared.ports, with_original, _runner(prepared.ports, in_place))


def _runner(ports: Signature, session: Any) -> Run:
    everything = [port.info for port in ports.inputs + ports.outputs]
    execute = run_with_bfloat16 if any(info.datatype == Datatype.BF16 for info in everything) else run
    return partial(execute, session, [port.info.name for port in ports.outputs])
