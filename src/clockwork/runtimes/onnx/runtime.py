"""Defines `OnnxRuntime`, which executes ONNX models on CPUs."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clockwork.arrays import Array
from clockwork.errors import InvalidModelError
from clockwork.malloc import measure_allocation
from clockwork.messages.tensors import Datatype
from clockwork.runtimes import scratch
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.batches import NO_ROW
from clockwork.runtimes.batching import BatchingOptions, BatchingPolicy, TrialPlan, plan_trial
from clockwork.runtimes.common import ModelRuntime, model_info
from clockwork.runtimes.examples import Example, Search, find_example, remembered
from clockwork.runtimes.hardware import device_kind, instruction_set
from clockwork.runtimes.onnx.cache import PreparedCache, entry, load
from clockwork.runtimes.onnx.closing import CloseTiming
from clockwork.runtimes.onnx.files import ModelFile, digest_of_one_file, find, read
from clockwork.runtimes.onnx.isolated import Preparation, prepare_in_child
from clockwork.runtimes.onnx.known_sizes import known_sizes
from clockwork.runtimes.onnx.model import OnnxModel
from clockwork.runtimes.onnx.packing import worth_packing
from clockwork.runtimes.onnx.prepared import Placeholder, PreparedModel, open_unpacked, prepare
from clockwork.runtimes.onnx.rows import analyse
from clockwork.runtimes.onnx.sessions import FAILURES, describe, run, run_with_bfloat16, share_one_arena
from clockwork.runtimes.ort import onnxruntime
from clockwork.runtimes.probe import Verdict, example_inputs, observed, try_model
from clockwork.runtimes.signature import Signature
from clockwork.runtimes.trial import Run
from clockwork.units import Bytes

log = logging.getLogger("clockwork.worker")


class OnnxRuntime(ModelRuntime[ModelFile, OnnxModel]):
    """Executes ONNX models with ONNX Runtime on CPUs."""

    def __init__(
        self,
        threads_per_device: int = 1,
        cache_dir: Path | None = None,
        cache_bytes: Bytes | None = None,
        batching: BatchingOptions | None = None,
    ) -> None:
        """A device has ``threads_per_device`` threads, including the calling thread.

        Prepared models are stored in ``cache_dir``, so that a restarted worker can use them. A prepared model is about
        as large as the model. Before the cache exceeds ``cache_bytes``, the least recently used entries are removed. If
        ``cache_bytes`` is None, there is no limit.

        Raises:
            ValueError: threads_per_device is less than 1.
        """
        super().__init__(version(), device_kind(threads_per_device), batching)
        share_one_arena()
        self._threads = threads_per_device
        self._cache = PreparedCache(cache_dir, cache_bytes)
        #: a prepared model that `_read_isolated` has read, with its digest and policy
        self._at_hand: tuple[tuple[str, BatchingPolicy], tuple[PreparedModel, Verdict]] | None = None
        self._placeholder = Placeholder()
        self._close_timing = CloseTiming()

    def locate(self, path: Path, name: str = "") -> Path:
        """Return the model file for a path, by the rules of `clockwork.runtimes.locating.locate`."""
        return find(path, name, self.links)

    def _read(self, path: Path) -> ModelFile:
        return read(path, self.links)

    def load_model(self, path: Path, name: str = "", *, isolated: bool = False) -> OnnxModel:
        """Read and prepare a model, as `clockwork.runtimes.common.ModelRuntime` describes."""
        try:
            return super().load_model(path, name, isolated=isolated)
        finally:
            self._at_hand = None

    def _read_isolated(self, path: Path, policy: BatchingPolicy) -> ModelFile:
        """Take the prepared model from the cache, or prepare the model in a separate process.

        If the runtime has no cache, the process uses a temporary cache.
        """
        if self._cache.directory is not None and self._cache.scratch is not None:
            digest = digest_of_one_file(path)
            known = self._cache.find(digest, self._conditions(policy))
            if known is not None:
                self._at_hand = (digest, policy), known
                return ModelFile(path, digest)
            return self._prepare_in_child(path, policy, self._cache.directory, self._cache.nbytes)
        for place in scratch.places():
            try:
                with scratch.ScratchDirectory(place) as directory:
                    file = self._prepare_in_child(path, policy, directory, None)
                    prepared = load(entry(directory, file.digest, *self._conditions(policy)))
            except OSError:
                continue
            if prepared is not None:
                self._at_hand = (file.digest, policy), prepared
                return file
        log.warning("%s is prepared in the process that serves, because there is no temporary space", path.name)
        return self._read(path)

    def _prepare_in_child(self, path: Path, policy: BatchingPolicy, directory: Path, nbytes: Bytes | None) -> ModelFile:
        return prepare_in_child(Preparation(path, policy, self._batching, self.links, self._threads, directory, nbytes))

    def fill_cache(self, path: Path, policy: BatchingPolicy) -> ModelFile:
        """Prepare a model, store the result in the cache, and return the model's file.

        Raises:
            InvalidModelError: the file is not an ONNX model, or is broken.
        """
        file = self._read(path)
        self._prepared(file, policy)
        return file

    def _prepared(self, file: ModelFile, policy: BatchingPolicy) -> tuple[PreparedModel, Verdict]:
        known = self._at_hand
        if known is not None and known[0] == (file.digest, policy):
            return known[1]
        return self._cache.get(file.digest, self._conditions(policy), partial(self._optimise_and_try, file, policy))

    def _conditions(self, policy: BatchingPolicy) -> tuple[str, ...]:
        """Return everything besides the model's files that a prepared model depends on, as texts."""
        return self.version, self.device_kind, instruction_set(), str(policy)

    def _prepare(self, file: ModelFile, policy: BatchingPolicy) -> OnnxModel:
        prepared, verdict = self._prepared(file, policy)
        return OnnxModel(
            info=prepared_info(file, prepared, verdict, policy),
            prepared=prepared,
            threads=self._threads,
            placeholder=self._placeholder if verdict.in_place else None,
            packed=verdict.packed,
            close_timing=self._close_timing,
            example=example_row(prepared, verdict, policy),
        )

    def _optimise_and_try(self, file: ModelFile, policy: BatchingPolicy) -> tuple[PreparedModel, Verdict]:
        original, prepared = prepare(file, self._threads, self._cache.scratch)
        run = runner(prepared.ports, original)
        example = find_example(prepared.ports, run, search_for(file, policy))
        prepared.ports = observed(prepared.ports, run, example)
        plan = plan_trial(policy, partial(analyse, file.outline))
        return prepared, self._try(file, original, prepared, plan, example)

    def _try(
        self, file: ModelFile, original: Any, prepared: PreparedModel, plan: TrialPlan, example: Example
    ) -> Verdict:
        """Try the prepared model with its weights in place. If that fails, try the model with copied weights."""
        packed = self._should_pack(prepared, example)
        if not packed:
            del original  # free its memory now, because the next session needs as much
            original = open_unpacked(file, self._threads)
        run_original = runner(prepared.ports, original)
        try:
            session, session_bytes = self._open(prepared, self._placeholder, packed)
        except FAILURES:
            pass
        else:
            verdict = try_model(prepared.ports, run_original, runner(prepared.ports, session), plan, example)
            if verdict.in_place:
                return replace(verdict, packed=packed, session_bytes=session_bytes)
            del session
        try:
            session, session_bytes = self._open(prepared, None, packed)
        except FAILURES as error:
            raise InvalidModelError(
                f"ONNX Runtime cannot load {file.path.name!r} after optimising it: {describe(error)}"
            ) from error
        verdict = try_model(prepared.ports, run_original, runner(prepared.ports, session), plan, example)
        return replace(verdict, in_place=False, packed=packed, session_bytes=session_bytes)

    def _open(self, prepared: PreparedModel, placeholder: Placeholder | None, packed: bool) -> tuple[Any, Bytes]:
        """Open a session. Return the session and the amount of heap memory that it takes."""
        return measure_allocation(partial(prepared.session, self._threads, placeholder, packed))

    def _should_pack(self, prepared: PreparedModel, example: Example) -> bool:
        """Measure whether packed weights save enough time. Weights that cannot be used in place are always packed."""
        try:
            packed, packed_bytes = self._open(prepared, self._placeholder, True)
            plain, plain_bytes = self._open(prepared, self._placeholder, False)
        except FAILURES:
            return True
        run_packed, run_plain = runner(prepared.ports, packed), runner(prepared.ports, plain)
        return worth_packing(
            run_packed, run_plain, example_inputs(prepared.ports, run_packed, example), packed_bytes - plain_bytes
        )


def version() -> str:
    """Return the name and version of the library, such as ``onnxruntime 1.32.0``."""
    return f"onnxruntime {onnxruntime.__version__}"


def prepared_info(file: ModelFile, prepared: PreparedModel, verdict: Verdict, policy: BatchingPolicy) -> HostModelInfo:
    """Describe a model that has been prepared and tried."""
    return model_info(
        prepared.ports,
        file.digest,
        policy,
        verdict,
        weights_bytes=prepared.nbytes + verdict.session_bytes,
        runtime=version(),
    )


def search_for(file: ModelFile, policy: BatchingPolicy) -> Search:
    """Return facts about a model's inputs, from which the search for accepted inputs starts."""
    return policy.search(known_sizes(file.outline))


def example_row(prepared: PreparedModel, verdict: Verdict, policy: BatchingPolicy) -> Mapping[str, Array]:
    """Return the elements that generated inputs contain in place of zeros."""
    if verdict.example is None:
        return NO_ROW
    return remembered(prepared.ports, policy.search(), verdict.example, verdict.random_example).row


def runner(ports: Signature, session: Any) -> Run:
    """Return a function that runs the session.

    The function's argument maps input names to arrays, and its result is the list of outputs.
    """
    infos = [port.info for port in ports.inputs + ports.optional + ports.outputs]
    execute = run_with_bfloat16 if any(info.datatype == Datatype.BF16 for info in infos) else run
    return partial(execute, session, [port.info.name for port in ports.outputs])
