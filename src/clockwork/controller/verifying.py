"""Checks the outputs of batches while the server serves.

While the server is idle, some requests that were executed in batches are executed again, each in a batch of one.

Theory of operation. A *sample* is a request of an executed batch, with its inputs and outputs. The server keeps the
sample after it has sent the response. For each batch size and input shape of a model's content, two requests of the
first batch become samples. After that, every Nth batch is sampled: one request of the batch becomes a sample, each time
at a different place in the batch. Samples wait until the server is idle. Then `Serving` passes a sample to the
scheduler as a request without a client. A *check* executes a sample again, and compares the outputs with the outputs in
the batch. The host compares the outputs.

If the outputs differ, the model's content is no longer batched. Later requests are then slower, but their responses are
right. The responses of the sampled batch have already been sent.

One check is under way at a time. If too many samples wait, new samples are skipped and counted.
"""

from typing import Final, TypeAlias

from clockwork.controller.config import VerifyingConfig
from clockwork.controller.events import CompareOutputs, ControllerCommand, OutputsCompared, Report, SaveProfile
from clockwork.controller.pending import own_request
from clockwork.controller.samples import Sample, Samples, sample_bytes
from clockwork.controller.tally import Tally
from clockwork.messages.actions import Infer
from clockwork.messages.counts import AGREED, DIFFERED, SKIPPED
from clockwork.messages.profile import ProfileKey
from clockwork.messages.results import InferOutput, InferResult
from clockwork.messages.status import Status
from clockwork.scheduling.shapes import ShapeKey, shape_key_of
from clockwork.state import ClockworkState, ModelState, PendingRequest
from clockwork.units import Nanos

MAX_DIFFERENCE: Final = 200
"""Limit of the text that describes a difference, in characters. Longer texts are cut."""

_BatchKind: TypeAlias = tuple[str, int, ShapeKey]
"""Digest of a model's content, number of rows of a batch, and input shape of its requests."""


class BatchSample(Sample, kw_only=True):
    """A request of ``model`` that was executed in a batch of ``batch_size`` rows."""

    model: ModelState
    batch_size: int


class BatchChecks:
    """The samples that wait, and the check that is under way."""

    def __init__(self, state: ClockworkState, tally: Tally, config: VerifyingConfig | None) -> None:
        """``config`` is None if no batches are checked."""
        self._state = state
        self._tally = tally
        self._config = config
        self._samples: Samples[BatchSample] = Samples(
            0 if config is None else config.max_waiting, 0 if config is None else config.max_bytes
        )

        #: kinds of batches that were sampled, in the order of their first batch
        self._uses: dict[_BatchKind, None] = {}
        self._batches: dict[str, int] = {}  #: number of batches by content
        self._compared = 0  #: id of the comparison that is under way

        #: the request that executes the sample, or None if no such request is under way
        self.request: PendingRequest | None = None

    @property
    def due(self) -> bool:
        """Whether a sample waits and no check is under way."""
        return self._samples.due

    # --- samples -----------------------------------------------------------------------------------------------------

    def places(self, action: Infer) -> tuple[int, ...]:
        """Return the places in an executed batch whose requests become samples.

        Call this method once per batch.
        """
        config, count, model = self._config, len(action.inputs), self._state.models.get(action.model)
        if config is None or model is None or model.unbatched or action.apart or action.inputs[0].generated:
            return ()
        digest = model.info.digest
        batches = self._batches[digest] = self._batches.get(digest, 0) + 1
        if _batch_kind(model, action) not in self._uses:
            return 0, count - 1
        turn = int(batches * config.share)
        return (turn % count,) if turn > int((batches - 1) * config.share) else ()

    def keep(self, request: PendingRequest, action: Infer, place: int, result: InferResult, output: object) -> None:
        """Store the request at a place in a batch as a sample. ``output`` is the payload of its outputs."""
        assert self._config is not None
        model, share = request.model, request.input
        nbytes = sample_bytes(share, result)
        if not self._samples.fits(nbytes):
            self._skip_cold()
        if share.generated or not self._samples.fits(nbytes):
            self._tally.of(model.name).checked(SKIPPED)
            return
        tensors = result.outputs[place].tensors
        self._samples.add(
            BatchSample(
                model=model,
                input=share,
                payload=request.payload,
                outputs=tensors,
                outputs_payload=output,
                batch_size=action.batch_size,
                nbytes=nbytes,
            )
        )
        self._uses[_batch_kind(model, action)] = None
        while len(self._uses) > self._config.max_uses:
            del self._uses[next(iter(self._uses))]

    def _skip_cold(self) -> None:
        """Skip the samples of models whose weights are on no device, because such samples might wait forever."""
        for sample in self._samples.discard(lambda sample: sample.model.name not in self._state.holders):
            self._count(sample, SKIPPED)

    def forget(self, model: ModelState) -> None:
        """Drop the samples of a model that was removed.

        No request for the model is pending, but a comparison of outputs may be under way.
        """
        if self._samples.current is not None and self._samples.current.model is model:
            self._samples.end()
        self._samples.discard(lambda sample: sample.model is model)
        digest = model.info.digest
        if all(other.info.digest != digest for other in self._state.models.values()):
            self._batches.pop(digest, None)
            self._uses = {use: None for use in self._uses if use[0] != digest}

    # --- a check -----------------------------------------------------------------------------------------------------

    def begin(self, now: Nanos, request_id: int) -> PendingRequest | None:
        """Return a request that executes the first sample whose model has weights on a device, or None.

        Call `executed`, `answered`, `failed` or `withdraw` when the request has ended.
        """
        assert self._config is not None
        warm = (sample for sample in self._samples.waiting if sample.model.name in self._state.holders)
        sample = next(warm, None)
        if sample is None:
            return None
        self._samples.take(sample)
        self.request = own_request(now, request_id, sample.model, sample.input, sample.payload, self._config.slo)
        return self.request

    def executed(self, action: Infer, output: InferOutput, payload: object) -> list[ControllerCommand]:
        """Compare the outputs if the request was executed as a batch of one.

        ``action`` executed the check's request.
        """
        if output.refusal and not output.failed:
            return self.answered(Status.INVALID_REQUEST, output.refusal)
        if len(action.inputs) > 1 or output.failed:
            self.failed()
            return []
        assert self.request is not None
        assert self._samples.current is not None
        sample, self._compared, self.request = self._samples.current, self.request.id, None
        return [
            CompareOutputs(
                check_id=self._compared,
                in_batch=sample.outputs,
                in_batch_payload=sample.outputs_payload,
                alone=output.tensors,
                alone_payload=payload,
            )
        ]

    def answered(self, status: Status, message: str) -> list[ControllerCommand]:
        """Handle a check whose request was answered without outputs.

        If the model refuses the request when the request is executed alone, the outputs of the batch were wrong.
        """
        if status != Status.INVALID_REQUEST:
            self.failed()
            return []
        assert self.request is not None
        self._compared, self.request = self.request.id, None
        return self.compared(OutputsCompared(self._compared, f"the model refuses the request alone: {message}"))

    def failed(self) -> None:
        """Try the check again later. The request of the check was not executed as a batch of one.

        After the configured number of attempts, the check is given up.
        """
        assert self._config is not None
        assert self._samples.current is not None
        sample = self._samples.current
        sample.attempts += 1
        if sample.attempts < self._config.attempts:
            self.withdraw()
            return
        self.request = None
        self._end(sample, SKIPPED)

    def withdraw(self) -> None:
        """Put the sample back among the waiting samples.

        The caller withdraws a check if a client's request arrives before the check is sent to a device.
        """
        self.request = None
        self._samples.put_back()

    def compared(self, event: OutputsCompared) -> list[ControllerCommand]:
        """Handle the result of the host's comparison."""
        sample = self._samples.current
        if sample is None and event.check_id == self._compared:
            return []  # the model was removed during the comparison
        if sample is None or self.request is not None or event.check_id != self._compared:
            return [Report("WARNING", f"the host compared outputs of no check under way: {event}")]
        if event.error:
            self._end(sample, SKIPPED)
            text = f"a batch of {sample.model.served_as} could not be checked: {event.error}"
            return [Report("WARNING", text)]
        self._end(sample, DIFFERED if event.difference else AGREED)
        if not event.difference or sample.model.unbatched:
            return []
        return self._stop_batching(sample, event.difference[:MAX_DIFFERENCE])

    def _stop_batching(self, sample: BatchSample, difference: str) -> list[ControllerCommand]:
        """Stop batching requests for this content."""
        info, rows = sample.model.info, sample.batch_size
        reason = f"the outputs of a request differed between a batch of {rows} rows and the request alone: {difference}"
        models = [model for model in self._state.models.values() if model.info.digest == info.digest]
        for model in models:
            model.stop_batching(reason)
        for waiting in self._samples.discard(lambda waiting: bool(waiting.model.unbatched)):
            self._count(waiting, SKIPPED)
        copies = f" and {len(models) - 1} copies" if len(models) > 1 else ""
        text = f"model {sample.model.served_as}{copies} is no longer batched: {reason}"
        fields: dict[str, str | int] = {
            "model": sample.model.served_as,
            "version": sample.model.version,
            "digest": info.digest,
            "batch_size": rows,
            "difference": difference,
        }
        saved = [
            SaveProfile(ProfileKey(info.digest, info.runtime, kind), profile)
            for kind, profile in sample.model.profiles.items()
        ]
        return [Report("ERROR", text, "batching_stopped", fields), *saved]

    def _end(self, sample: BatchSample, outcome: str) -> None:
        """End the check of the current sample."""
        self._samples.end()
        self._count(sample, outcome)

    def _count(self, sample: BatchSample, outcome: str) -> None:
        self._tally.of(sample.model.name).checked(outcome)

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        self._samples.check_invariants()
        assert self.request is None or self._samples.current is not None
        assert self._config is None or len(self._uses) <= self._config.max_uses


def _batch_kind(model: ModelState, action: Infer) -> _BatchKind:
    return model.info.digest, action.batch_size, shape_key_of(model, action.inputs[0])
