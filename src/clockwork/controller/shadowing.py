"""Executes copies of live requests with a different version of their model, in idle time, and compares the outputs.

Theory of operation. A *shadow* is a version that is compared with the versions that clients use. The shadow has a
share, for example a tenth: every tenth live request is copied. After such a request has been answered, the server keeps
the request's inputs and outputs as a *copy*. A copy waits until the server is idle. Then `Serving` passes the copy to
the scheduler as a request without a client, and the host compares the outputs of the two executions.

A copy delays no promised request, for these reasons:

- A copy begins only if no request is pending and no device executes an action.
- If a client's request arrives before the copy was sent to a device, the copy is withdrawn.
- A copy begins only if the live requests of the last seconds had at least twice as much spare time as the copy takes.
  So a request that arrives while a device executes the copy can usually still be in time.
- A copy never evicts weights: it begins only if the version's weights are on a device, or if every device has free
  memory for them. Copies count neither as demand for the version nor as a use of its weights, so they do not keep the
  weights in memory.

A shadow waits until its version is ready and is not the default version. While the shadow waits, the default version of
its model is promoted, so that the shadow does not become the default version when it is ready. A shadow ends when its
version is unloaded or becomes the default version, or when a worker is lost while it executes a copy.

One copy is executed at a time. Copies beyond the limits are dropped and counted.
"""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from clockwork.controller.admission import Admission
from clockwork.controller.catalog import Catalog, VersionState
from clockwork.controller.config import ControllerConfig, ControlMode, ShadowSpec
from clockwork.controller.events import CompareShadow, ControllerCommand, Report, Respond, ShadowCompared
from clockwork.controller.pending import own_request
from clockwork.controller.responses import refusal_response
from clockwork.controller.samples import Sample, Samples, sample_bytes
from clockwork.controller.shadow import Shadow, SpareTime
from clockwork.controller.shadow_specs import MAX_SHADOWS, check_share
from clockwork.errors import InvalidRequestError
from clockwork.messages.faults import quoted, unknown_model, unknown_version
from clockwork.messages.requests import InferRequest, ShadowRequest, ShadowResponse
from clockwork.messages.results import InferOutput, InferResult
from clockwork.messages.shadows import ENDED, RUNNING, ShadowStatus
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, ModelState, PendingRequest
from clockwork.units import Nanos, show_duration

MAX_TEXT: Final = 300
"""Longest text of a failure or a mismatch, in characters. Longer texts are cut."""

MIN_SPARE: Final = 2
"""A copy begins only if the spare time of recent live requests was at least this multiple of the copy's execution time.
"""

NOT_EXECUTED: Final = (
    Status.SUCCESS,  # the scheduler executes no models
    Status.TIMEOUT,
    Status.SHUTTING_DOWN,
    Status.CANCELLED,
    Status.SKIPPED_BY_CONTROLLER,
    Status.CONTROLLER_COULD_NOT_START_IN_TIME,
)
"""Statuses of copies that were not executed. Such a copy is tried again."""


class Copy(Sample, kw_only=True):
    """A live request that a shadow executes again."""

    shadow: Shadow


class Shadows:
    """The shadows of all models, the copies that wait, and the copy that is being executed."""

    def __init__(self, state: ClockworkState, catalog: Catalog, admission: Admission, config: ControllerConfig) -> None:
        """Start with the shadows of the configuration."""
        self._state = state
        self._catalog = catalog
        self._admission = admission
        self._config = config.shadowing
        self._fixed = config.control is ControlMode.NONE
        self._shadows = {name: Shadow(name, spec) for name, spec in config.shadows.items()}
        self._samples: Samples[Copy] = Samples(self._config.max_waiting, self._config.max_bytes)
        self._spare = SpareTime(self._config.window)
        self._catalog_seen = -1  #: revision of the catalog at the last call of `settle`
        self._compared = 0  #: id of the comparison that is under way
        self._lost = ""  #: why the current copy ends the shadow; empty if the shadow continues
        self.running: dict[str, Shadow] = {}  #: the shadows that get copies, by the name of their model
        self.request: PendingRequest | None = None  #: the request that executes a copy
        self.revision = 0  #: grows with every shadow that begins or ends

    @property
    def due(self) -> bool:
        """Whether a copy waits and no copy is being executed or compared."""
        return self._samples.due

    @property
    def unsettled(self) -> bool:
        """Whether `settle` may have something to do."""
        return self._catalog_seen != self._catalog.served_revision

    # --- shadows -----------------------------------------------------------------------------------------------------

    def change(self, client_id: int, request: ShadowRequest) -> list[ControllerCommand]:
        """Handle a client's request to begin or to end a shadow."""
        name = request.name
        if not self._catalog.versions(name) and name not in self._shadows:
            text = unknown_model(name, self._catalog.names())
            return [refusal_response(client_id, request, Status.UNKNOWN_MODEL, text)]
        try:
            reports = self._begin_shadow(request) if request.version else self._remove(name)
        except InvalidRequestError as error:
            return [refusal_response(client_id, request, Status.INVALID_REQUEST, str(error))]
        self.revision += 1
        return [*reports, *self.settle(), Respond(client_id, ShadowResponse(request.id, Status.SUCCESS, ""))]

    def _begin_shadow(self, request: ShadowRequest) -> list[ControllerCommand]:
        name = request.name
        version = self._catalog.version(name, request.version)
        check_share(request.share)
        if version is None and (self._fixed or not request.version.isdigit()):
            raise InvalidRequestError(unknown_version(name, request.version, self._catalog.ready(name)))
        if version is not None and self._catalog.is_default(version):
            raise InvalidRequestError(
                f"version {version.number} is the default version of model {quoted(name)}; promote another version "
                "first"
            )
        if name not in self._shadows and len(self._shadows) >= MAX_SHADOWS:
            raise InvalidRequestError(f"{MAX_SHADOWS} models have shadows, which is the limit")
        reports = [] if name not in self._shadows else self._end(self._shadows[name], "another shadow replaces it")
        number = request.version if version is None else version.number
        self._shadows[name] = Shadow(name, ShadowSpec(number, request.share))
        self._catalog_seen = -1
        return reports

    def _remove(self, name: str) -> list[ControllerCommand]:
        shadow = self._shadows.get(name)
        if shadow is None:
            raise InvalidRequestError(f"model {quoted(name)} has no shadow")
        reports = self._end(shadow, "a client has ended it")
        del self._shadows[name]
        return reports

    def settle(self) -> list[ControllerCommand]:
        """Begin and end shadows after the served versions have changed."""
        if not self.unsettled:
            return []
        reports: list[ControllerCommand] = []
        for shadow in list(self._shadows.values()):
            reports += self._update(shadow)
        self._catalog_seen = self._catalog.served_revision
        return reports

    def _update(self, shadow: Shadow) -> list[ControllerCommand]:
        name, number = shadow.name, shadow.version
        if shadow.state == ENDED:
            if not self._catalog.ready(name):
                del self._shadows[name]
            return []
        found = self._catalog.version(name, number)
        ready = found is not None and found.state is VersionState.READY
        reports = self._pin(shadow, first=ready and not shadow.was_ready)
        shadow.was_ready = ready
        is_default = found is not None and self._catalog.is_default(found)
        if shadow.state == RUNNING:
            if not ready:
                return [*reports, *self._end(shadow, f"version {number} was unloaded")]
            if is_default:
                return [*reports, *self._end(shadow, f"version {number} became the default version")]
        elif not ready or is_default:
            state = "is the default version" if ready else "is not ready"
            shadow.reason = f"version {number} {state}"
            return reports
        assert found is not None
        assert found.model is not None
        if found.model.info.digest != shadow.digest:
            reports += self._run(shadow, found.model)
        return reports

    def _pin(self, shadow: Shadow, *, first: bool) -> list[ControllerCommand]:
        """Promote the default version, if no version was promoted, so that the shadow does not become the default.

        ``first`` means that the shadow's version has just become ready, so that no request has used it as the default.
        """
        name, default = shadow.name, self._catalog.find(shadow.name)
        others = [number for number in self._catalog.ready(name) if number != shadow.version]
        if self._catalog.promoted(name) or default is None or not others:
            return []
        if default.version == shadow.version and not first:
            return []
        number = others[-1] if default.version == shadow.version else default.version
        self._catalog.promote(name, number)
        text = f"the default version of {name} is version {number}, because version {shadow.version} is a shadow"
        return [Report("INFO", text, "model_promoted", {"model": name, "version": number, "label": ""})]

    def _run(self, shadow: Shadow, model: ModelState) -> list[ControllerCommand]:
        """Begin a shadow that waits, or begin again because new content of its version was loaded."""
        again = shadow.state == RUNNING
        if again:
            self._drop_copies(shadow)
            shadow = self._shadows[shadow.name] = Shadow(shadow.name, shadow.spec)
        shadow.digest, shadow.state, shadow.reason, shadow.was_ready = model.info.digest, RUNNING, "", True
        self.running[shadow.name] = shadow
        text = " begins again, because other content was loaded" if again else " executes copies of live requests"
        share = f"{shadow.spec.share:g}"
        return [shadow.report("INFO", f"{text}; its share is {share}", "shadow_begun", share=share)]

    def _end(self, shadow: Shadow, reason: str, level: str = "INFO") -> list[ControllerCommand]:
        """End a shadow. Its counts are kept."""
        if shadow.state == ENDED:
            return []
        shadow.state, shadow.reason = ENDED, reason
        self.running.pop(shadow.name, None)
        self.revision += 1
        self._drop_copies(shadow)
        text = f" ended, because {reason}; {shadow.summary()}"
        return [shadow.report(level, text, "shadow_ended", reason=reason)]

    def _drop_copies(self, shadow: Shadow) -> None:
        shadow.dropped += len(self._samples.discard(lambda copy: copy.shadow is shadow))

    def desired(self) -> dict[str, ShadowSpec]:
        """Return the shadows that a restart should begin again, by the name of their model."""
        return {name: shadow.spec for name, shadow in self._shadows.items() if shadow.state != ENDED}

    # --- copies ------------------------------------------------------------------------------------------------------

    def note(self, now: Nanos, request: PendingRequest) -> None:
        """Record the spare time of a live request. Call this method while a shadow runs."""
        self._spare.note(now, request.deadline - now - request.model.infer_estimate(request.batch_size))

    def keep(
        self, request: PendingRequest, result: InferResult, place: int, payload: object
    ) -> list[ControllerCommand]:
        """Copy a live request that was answered, if it belongs to a shadow's share.

        ``place`` is the request's place in the executed batch, and ``payload`` is the payload of its outputs.
        """
        shadow = self.running.get(request.model.served_as)
        if shadow is None or request.model.version == shadow.version or not shadow.chooses():
            return []
        shadow.copied += 1
        share, model = request.input, self._catalog.find(shadow.name, shadow.version)
        nbytes = sample_bytes(share, result)
        if model is None or not self._samples.fits(nbytes):
            shadow.dropped += 1
            return []
        try:
            rows = self._admission.batch_size(
                model, InferRequest(request.id, shadow.name, share.tensors, outputs=share.outputs)
            )
        except InvalidRequestError as error:
            return self._count_failure(shadow, str(error))
        self._samples.add(
            Copy(
                shadow=shadow,
                input=replace(share, batch_size=rows),
                payload=request.payload,
                outputs=result.outputs[place].tensors,
                outputs_payload=payload,
                nbytes=nbytes,
            )
        )
        return []

    def begin(self, now: Nanos, request_id: int) -> PendingRequest | None:
        """Return a request for the first copy that can be executed now, or None. The server must be idle."""
        spare = self._spare.at(now)
        for copy in self._samples.waiting:
            model = self._catalog.find(copy.shadow.name, copy.shadow.version)
            if model is not None and not self._why_not(model, copy.input.batch_size, spare):
                break
        else:
            return None
        self._samples.take(copy)
        self.request = own_request(now, request_id, model, copy.input, copy.payload, self._config.slo, background=True)
        return self.request

    def _why_not(self, model: ModelState, rows: int, spare: Nanos | None) -> str:
        """Return why a copy would not be executed now. ``spare`` is the spare time of live requests."""
        if model.name not in self._state.holders:
            able = [gpu for gpu in self._state.gpus() if gpu.can_hold(model.name)]
            if not able or any(gpu.cache.free < model.info.weights_pages for gpu in able):
                return "its weights are on no device, and not every device has free memory for them"
        if not model.profiles:
            return "no connected worker has measured it"
        duration = max(profile.infer_estimate(rows) for profile in model.profiles.values())
        if spare is None or duration * MIN_SPARE <= spare:
            return ""
        return f"a copy takes {show_duration(duration)}, and live requests have only {show_duration(spare)} to spare"

    def executed(self, output: InferOutput, payload: object) -> list[ControllerCommand]:
        """Compare the outputs of a copy that was executed."""
        if output.refusal or output.failed:
            return self._failed(output.refusal)
        copy, request = self._samples.current, self.request
        assert copy is not None
        assert request is not None
        self.request, self._compared = None, request.id
        return [CompareShadow(request.id, copy.outputs, copy.outputs_payload, output.tensors, payload)]

    def answered(self, status: Status, message: str) -> list[ControllerCommand]:
        """Handle a copy whose request was answered without outputs."""
        copy = self._samples.current
        assert copy is not None
        if self._lost:
            reason, self._lost = self._lost, ""
            return [*self._failed(reason), *self._end(copy.shadow, reason, "WARNING")]
        if status not in NOT_EXECUTED:
            return self._failed(message)
        copy.attempts += 1
        if copy.attempts < self._config.attempts and copy.shadow.state == RUNNING:
            self.withdraw()
            return []
        copy.shadow.dropped += 1
        self.request = None
        self._samples.end()
        return []

    def lost(self, request: PendingRequest, worker_id: str) -> str:
        """If a lost worker was executing a copy, return why the copy's request is not tried again.

        The shadow then ends, because its version may have caused the loss.
        """
        if request is not self.request:
            return ""
        self._lost = f"worker {worker_id} was lost while it executed a copy"
        return self._lost

    def withdraw(self) -> None:
        """Let the copy wait again, because a client's request has arrived before the copy was sent to a device."""
        copy = self._samples.current
        assert copy is not None
        self.request = None
        if copy.shadow.state == RUNNING:
            self._samples.put_back()
        else:
            copy.shadow.dropped += 1
            self._samples.end()

    def _failed(self, message: str) -> list[ControllerCommand]:
        copy = self._samples.current
        assert copy is not None
        self.request = None
        self._samples.end()
        return self._count_failure(copy.shadow, message)

    def _count_failure(self, shadow: Shadow, message: str) -> list[ControllerCommand]:
        shadow.failed += 1
        shadow.last_failure = message[:MAX_TEXT]
        if shadow.failed > 1:
            return []
        text = f" failed for the first time; later failures are only counted: {shadow.last_failure}"
        return [shadow.report("WARNING", text, "shadow_failed", reason=shadow.last_failure)]

    def compared(self, event: ShadowCompared) -> list[ControllerCommand]:
        """Handle the result of the host's comparison."""
        copy = self._samples.current
        if copy is None or self.request is not None or event.check_id != self._compared:
            return [Report("WARNING", f"the host compared outputs of no copy under way: {event}")]
        self._samples.end()
        shadow = copy.shadow
        if event.error:
            return self._count_failure(shadow, f"outputs could not be compared: {event.error}")
        new = [kind for kind in event.mismatches if kind not in shadow.mismatches]
        shadow.add(event)
        return [
            shadow.report(
                "WARNING",
                f" differs from the live version for the first time; later mismatches of the kind {kind} are only "
                f"counted: {event.mismatches[kind][:MAX_TEXT]}",
                "shadow_mismatch",
                kind=kind,
                difference=event.mismatches[kind][:MAX_TEXT],
            )
            for kind in new
        ]

    # --- status ------------------------------------------------------------------------------------------------------

    def statuses(self) -> Iterator[ShadowStatus]:
        """Yield the state of each shadow, in order of names."""
        for name, shadow in sorted(self._shadows.items()):
            status = shadow.status()
            if shadow.state == RUNNING and (model := self._catalog.find(name, shadow.version)) is not None:
                status = replace(status, reason=self._why_not(model, 1, self._spare.last()))
            yield status

    def check_invariants(self) -> None:
        """Assert the invariants. Tests and checkers call this method."""
        self._samples.check_invariants()
        assert self.request is None or self._samples.current is not None
        assert self.running == {name: each for name, each in self._shadows.items() if each.state == RUNNING}
        assert all(self._shadows.get(copy.shadow.name) is copy.shadow for copy in self._samples.waiting)
        assert len(self._shadows) <= MAX_SHADOWS
