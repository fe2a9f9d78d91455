"""Measures models while the server serves. Each measurement is a request that the controller itself makes.

Theory of operation. A model that is loaded while serving has no times for planning. So such a model first gets a
*provisional* profile of upper bounds. With these bounds, the scheduler plans the measurements like other requests: it
reserves the bound on the device and loads the weights. The bound of a batch size is computed from the next smaller
batch size. For the bound of the first batch size, there are two sources: the trial executions of one row on the workers
with devices of this kind when they read the model, or the model's times on another kind of device. If both are missing,
the bound is ``max_first_exec``.

A measurement has a distant deadline, so a scheduler that plans by deadlines executes it when a device is free. At most
one measurement is under way in the whole fleet. If the server is *quiet*, a measurement begins at once. A server is
quiet if no request is pending and no client has sent a request for ``live_quiet``. Otherwise, the measurement begins
after a pause, so that measurements take at most ``live_share`` of a device's time. A measurement does not begin earlier
on a device that is idle between two requests. If it did, measurements would take all of the time between requests, and
requests that arrive during a long measurement would be refused.

A model is ready when ``ready_samples`` executions of one row are measured. Larger batch sizes are measured afterwards.
If a batch size fails, no larger ones are measured. If the batch size 1 fails ``attempts`` times, the model cannot be
served.

While the server is not quiet, large models are measured with fewer executions, because each execution delays requests.
If the executions of one row took ``ready_budget`` together, including the warm-ups, the last execution counts as a
sample, and the model is ready. If the executions of a batch size took ``live_budget`` together, the next batch size
follows. A profile with fewer than ``min_samples`` samples is not stored, so the next start of the server measures the
model again.

The first executions of one row may be slow, for example because a device allocates memory for them. The profile
contains these durations separately (`ModelProfile.first`), because every other device will also be slow at first.

A measurement counts only if its Infer executed no other request. With other requests, the measured time would be the
time of a larger batch. In a fleet with several kinds of devices, the scheduler chooses the device. So a measurement may
be executed on another kind than intended. The measurement then counts for that kind, or does not count.

Models that are not ready are measured first, because clients wait for them. Then ready models are measured on their
other kinds of devices, and then larger batch sizes are measured.
"""

from collections import deque
from collections.abc import Iterable
from math import prod
from typing import Final, NamedTuple

from clockwork.controller.config import ProfilingConfig
from clockwork.controller.events import ControllerCommand, Report, SaveProfile
from clockwork.controller.measuring import (
    batch_sizes,
    generated_inputs,
    possible_shapes,
    report_measured,
    too_long,
    unmeasured,
    why_limited,
)
from clockwork.controller.measuring_job import Job, PausedJob
from clockwork.controller.pending import own_request
from clockwork.messages.actions import Infer
from clockwork.messages.profile import Measurement, ModelProfile, ProfileKey
from clockwork.messages.results import InferOutput, InferResult, TrialRun
from clockwork.messages.status import Status
from clockwork.state import ClockworkState, ModelState, PendingRequest
from clockwork.units import MILLISECOND, SECOND, Nanos, show_duration

GROWTH: Final = 3
"""Bound of a batch size, as a multiple of the time of half as many rows. More than 2, because the work per row may
grow.
"""

KIND_FACTOR: Final = 4
"""Bound of one row, as a multiple of the model's time on another kind of device."""

TRIAL_FACTOR: Final = 3
"""Bound of one row, as a multiple of the slowest trial execution on a worker with devices of the same kind."""

LOAD_FACTOR: Final = 2
"""Bound of a LoadWeights, as a multiple of the slowest known load time per page."""

MIN_BOUND: Final[Nanos] = 2 * MILLISECOND
"""Smallest bound. If an action is shorter, its time depends mainly on the operating system."""

MAX_BOUND: Final[Nanos] = 60 * SECOND
"""Largest bound of one row. With a smaller limit, requests could be admitted behind an execution that takes longer than
its bound.
"""

MAX_LOAD: Final[Nanos] = 1 * SECOND
"""Bound of a LoadWeights if no model was measured on this kind of device."""

MAX_UNUSED: Final = 4096
"""Limit of the known profiles of contents that are not loaded."""

MAX_PAUSED: Final = 64
"""Limit of the unloaded models whose measurements are kept until the next load of the same content."""

MAX_EXECUTIONS: Final = 64
"""Limit of the first executions of a content that are recorded to find the slow ones."""

MAX_TRIES: Final = 100
"""Limit of measurements of one batch size that do not count because they are refused, late, or not alone in a batch."""

MAX_MISSED: Final = 10
"""Limit of measurements of one row that devices of another kind execute, if the model is ready.

A scheduler prefers the devices that have the weights, so it will probably choose them again.
"""


class Progress(NamedTuple):
    """A step in the measurement of a model: the model is ready, has a new profile, or cannot be served for a reason."""

    model: ModelState
    ready: bool = False
    failure: str = ""


class LiveMeasuring:
    """The models to measure, and the measurement that is under way."""

    def __init__(self, state: ClockworkState, config: ProfilingConfig, known: dict[ProfileKey, ModelProfile]) -> None:
        """``known`` contains the profiles that were measured earlier. New profiles are added to ``known``."""
        self._state = state
        self._config = config
        self._known = known
        self._jobs: deque[Job] = deque()
        self._ready: set[ModelState] = set()  #: models that still have jobs, but are ready on one kind of device
        self._not_before: Nanos = 0  #: earliest start of the next measurement, unless the server is quiet
        self._quiet_at: Nanos = 0  #: time when the server becomes quiet if no other request arrives
        self._paused: dict[ProfileKey, PausedJob] = {}  #: unfinished measurements of unloaded models, the oldest first
        #: first executions of one row by content and kind of device, the oldest content first
        self._executions: dict[ProfileKey, list[Nanos]] = {}
        self._wakeup: Nanos = 0  #: time when the last call of `begin` would have returned a measurement
        self.request: PendingRequest | None = None  #: the measurement that is under way
        self._under_way: Job | None = None  #: the job of this measurement
        self.progress: list[Progress] = []  #: progress that the owner of this object has not taken yet

    @property
    def due(self) -> bool:
        """Whether a model waits for a measurement and no measurement is under way."""
        return bool(self._jobs) and self.request is None

    @property
    def pending(self) -> bool:
        """Whether a measurement is under way or waits."""
        return bool(self._jobs) or self.request is not None

    def next_wakeup(self) -> Nanos | None:
        """Return when to call `begin` next, if no event happens before."""
        return self._wakeup if self.due else None

    def note_request(self, now: Nanos) -> None:
        """Record that a client has sent a request at ``now``."""
        self._quiet_at = now + self._config.live_quiet

    def add(self, model: ModelState, kinds: Iterable[str]) -> None:
        """Measure a model that has no profile. The model is ready after its measurement on the first kind of device.

        It is measured on the other kinds of devices later.
        """
        example = model.info.example
        if example is not None and example.unmeasured:
            for kind in kinds:
                model.profiles[kind] = unmeasured(self._load_bound(model, kind), self._config, example.unmeasured)
            self.progress.append(Progress(model, ready=True))
            return
        if model.profiles.keys() - {job.kind for job in self._jobs if job.model is model}:
            self._ready.add(model)
        for kind in kinds:
            job = Job(model, kind, possible_shapes(model, self._config))
            self._jobs.append(job)
            if not self._continue_paused(job):
                self._begin_with_bounds(model, kind, job.shapes[0])
        self.progress.append(Progress(model))

    def remove(self, model: ModelState) -> None:
        """Stop measuring a model. A measurement of the model that is under way does not count."""
        self._ready.discard(model)
        for job in self._jobs:
            if job.model is model and job.ready:
                key, profile = job.key, model.profiles[job.kind]
                self._paused.pop(key, None)
                self._paused[key] = PausedJob(
                    job.size, job.samples, job.warmups, job.first, job.short, job.measured, profile
                )
                if len(self._paused) > MAX_PAUSED:
                    del self._paused[next(iter(self._paused))]
        self._jobs = deque(job for job in self._jobs if job.model is not model)

    def _continue_paused(self, job: Job) -> bool:
        """Continue the measurement of a content that was unloaded before all batch sizes were measured."""
        model = job.model
        paused = self._paused.pop(job.key, None)
        if paused is None:
            return False
        job.size, job.samples, job.warmups, job.first, job.short, job.measured, profile = paused
        job.shapes = [profile.input_shapes]
        model.profiles[job.kind] = profile
        self._note_ready(job)
        return True

    # --- a measurement -----------------------------------------------------------------------------------------------

    def begin(self, now: Nanos, request_id: int, *, idle: bool) -> PendingRequest | None:
        """Return the next measurement, or None if no measurement may begin yet.

        ``idle`` means that no request is pending and no device executes anything.
        """
        quiet = idle and now >= self._quiet_at
        if not self.due or (now < self._not_before and not quiet):
            self._wakeup = self._not_before if now >= self._quiet_at else min(self._not_before, self._quiet_at)
            return None
        job = self._under_way = min(self._jobs, key=self._rank)
        share = generated_inputs(job.model, job.size, job.shapes[0])[0]
        cold, slo = job.model.name not in self._state.holders, self._config.live_slo + job.bound
        self.request = own_request(now, request_id, job.model, share, None, slo, cold_start=cold)
        return self.request

    def executed(
        self, now: Nanos, action: Infer, result: InferResult, output: InferOutput, kind: str
    ) -> list[ControllerCommand]:
        """Count a measurement that a device of ``kind`` executed."""
        job = self._end(now, result.exec.duration)
        if job is None:
            return []
        if kind != job.kind:  # the scheduler chose a device of another kind
            others = [other for other in self._jobs if other.model is job.model and other.kind == kind]
            if not others or others[0].size != job.size:
                return self._missed(job, kind)
            job = others[0]
        if output.refusal or output.failed:
            text = f"Infer with batch size {job.size} failed: {output.refusal}"
            return self._failed(job, text, refused=not output.failed)
        if len(action.inputs) > 1:
            return self._not_counted(job, "other requests shared its batches")
        duration, config, busy = result.exec.duration, self._config, now < self._quiet_at
        executions = self._note_execution(job, duration)
        spent = job.spent + duration
        if len(job.warmups) < config.warmups and not (busy and spent >= config.ready_budget):
            job.warmups.append(duration)
            self._tighten(job, duration)
            return []
        if job.size > 1 and duration > config.max_exec:
            return self._finish(job, too_long(job.size, duration, config.max_exec))
        job.samples.append(duration)
        if job.size == 1:
            job.note_first(executions)
        self._tighten(job, max(job.samples))
        enough = min(config.ready_samples, config.min_samples)
        if job.size == 1 and not job.ready and (len(job.samples) >= enough or (busy and spent >= config.ready_budget)):
            self._note_ready(job)
        if len(job.samples) >= config.min_samples:
            return self._next_size(job)
        if busy and spent >= config.live_budget:
            job.short = True
            return self._next_size(job)
        return []

    def _note_execution(self, job: Job, duration: Nanos) -> list[Nanos]:
        """Record an execution of the job's content. Return the first executions of one row of this content."""
        if job.size > 1:
            return []
        executions = self._executions.setdefault(job.key, [])
        if len(executions) < MAX_EXECUTIONS:
            executions.append(duration)
        if len(self._executions) > MAX_PAUSED:
            del self._executions[next(iter(self._executions))]
        return executions

    def answered(self, now: Nanos, status: int, message: str) -> list[ControllerCommand]:
        """Handle a measurement that was refused, failed or late, or that no device executed."""
        job = self._end(now, 0)
        if job is None:
            return []
        if status == Status.SUCCESS:  # a scheduler such as echo succeeds without an execution
            if not job.ready:
                self._note_ready(job)
            return self._finish(job, "the scheduler executes no models", save=False)
        if status in (Status.TIMEOUT, Status.CONTROLLER_COULD_NOT_START_IN_TIME, Status.SKIPPED_BY_CONTROLLER):
            self._not_before = max(self._not_before, now + self._config.live_retry)
            return self._not_counted(job, message)
        return self._failed(job, message)

    def _end(self, now: Nanos, duration: Nanos) -> Job | None:
        """End the measurement that is under way. Return its job, or None if its model is no longer measured."""
        request, self.request = self.request, None
        self._not_before = now + int(duration / self._config.live_share) - duration
        job, self._under_way = self._under_way, None
        return job if request is not None and job in self._jobs else None

    def _rank(self, job: Job) -> int:
        """Return 0 if the model is not ready, 1 if it is ready on another kind of device, 2 for larger batch sizes.

        Jobs with a lower rank go first, because clients wait for models that are not ready.
        """
        return 2 if job.ready else int(job.model in self._ready)

    # --- a job -------------------------------------------------------------------------------------------------------

    def _begin_with_bounds(self, model: ModelState, kind: str, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Give a model its provisional profile for a kind of device."""
        known = [
            profile.infer_estimate(1) * KIND_FACTOR
            for key, profile in self._known.items()
            if key.digest == model.info.digest and key.device_kind != kind
        ]
        elements = sum(prod(shape) for shape in shapes)
        known += [
            round(trial.duration * TRIAL_FACTOR * max(1.0, elements / max(1, trial.elements)))
            for trial in self._trials(model, kind)
        ]
        bound = min(MAX_BOUND, max(MIN_BOUND, *known)) if known else self._config.max_first_exec
        load = self._load_bound(model, kind)
        model.profiles[kind] = ModelProfile(load, {1: Measurement((bound,))}, 1, shapes)

    def _trials(self, model: ModelState, kind: str) -> list[TrialRun]:
        """Return the trial executions on the workers with devices of ``kind``. Other workers may be much faster."""
        infos = [gpu.models[model.name] for gpu in self._state.gpus() if gpu.kind == kind and model.name in gpu.models]
        return [info.trial for info in infos or [model.info] if info.trial is not None]

    def _load_bound(self, model: ModelState, kind: str) -> Measurement:
        """Return an upper bound of the model's LoadWeights time.

        The bound is computed from the slowest known load time per page.
        """
        pages = model.info.weights_pages
        others = [
            other.profiles[kind].load_weights.p99 * pages // max(1, other.info.weights_pages)
            for other in self._state.models.values()
            if other is not model and kind in other.profiles
        ]
        bound = min(MAX_LOAD, max(MIN_BOUND, LOAD_FACTOR * max(others))) if others else MAX_LOAD
        return Measurement((bound,))

    def _tighten(self, job: Job, slowest: Nanos) -> None:
        """Lower the bound of the batch size that is being measured, after some executions of this size."""
        bound = max(MIN_BOUND, slowest + slowest // 2)
        if job.samples or bound < job.bound:
            self._update(job, {**job.measured, job.size: Measurement((bound,))}, announce=not job.samples)

    def _note_ready(self, job: Job) -> None:
        job.ready = True
        self._ready.add(job.model)
        self.progress.append(Progress(job.model, ready=True))

    def _next_size(self, job: Job) -> list[ControllerCommand]:
        """After a batch size is measured, continue with the next one, or end the job."""
        slow = max(0, len(job.first) - len(job.warmups)) if job.size == 1 else 0
        job.measured[job.size] = Measurement(tuple(job.samples[slow:]))
        sizes = batch_sizes(job.model, self._config.max_batch_size)
        following = next((size for size in sizes if size > job.size), None)
        bound = GROWTH * job.measured[job.size].p99
        if following is None or job.model.unbatched:
            return self._finish(job, why_limited(job.model, self._config.max_batch_size))
        if bound // GROWTH * 3 // 2 > self._config.max_exec:
            expected = show_duration(bound // GROWTH * 2)
            limit = show_duration(self._config.max_exec)
            return self._finish(
                job, f"batch size {following} would take about {expected}; the limit for one batch is {limit}"
            )
        job.size, job.samples, job.warmups, job.tries, job.missed = following, [], [], 0, 0
        self._update(job, {**job.measured, following: Measurement((max(MIN_BOUND, bound),))})
        return []

    def _failed(self, job: Job, why: str, *, refused: bool = False) -> list[ControllerCommand]:
        """Handle a failed measurement: try other shapes or try again, skip larger batch sizes, or give up on the model.

        If the model has ``refused`` all generated inputs, clients' first requests are used as measurements.
        """
        if job.size > 1:
            return self._finish(job, why)
        if len(job.shapes) > 1 and not job.samples:
            job.shapes.pop(0)
            self._update(job, job.model.profiles[job.kind].infer, announce=False)
            return []
        job.failures += 1
        if job.failures < self._config.attempts:
            return [Report("WARNING", f"measuring {job.model.served_as} failed and will be tried again: {why}")]
        if refused:
            load = job.model.profiles[job.kind].load_weights
            job.model.profiles[job.kind] = unmeasured(load, self._config, why)
            self._note_ready(job)
            return self._finish(job, why, save=False)
        return self._give_up(job, f"it could not be measured on {job.kind}: {why}")

    def _missed(self, job: Job, kind: str) -> list[ControllerCommand]:
        """Handle a measurement that a device of another ``kind`` executed."""
        job.missed += 1
        why = f"the scheduler chose devices of kind {kind}"
        if job.size == 1 and job.missed >= MAX_MISSED and job.model in self._ready:
            return self._stop_trying(job, why)
        return self._not_counted(job, why)

    def _not_counted(self, job: Job, why: str) -> list[ControllerCommand]:
        job.tries += 1
        return [] if job.tries < MAX_TRIES else self._stop_trying(job, why)

    def _stop_trying(self, job: Job, why: str) -> list[ControllerCommand]:
        """End the measurement of a batch size without enough samples. Do not store the profile."""
        text = f"batch size {job.size} could not be measured while serving: {why}"
        job.short = True
        if job.size > 1:
            return self._finish(job, text)
        if job.samples:
            return self._next_size(job)
        if job.ready or job.model in self._ready:  # requests in service will show how long this batch size takes
            return self._finish(job, text, save=False)
        return self._give_up(job, text)

    def _give_up(self, job: Job, why: str) -> list[ControllerCommand]:
        model = job.model
        self._jobs.remove(job)
        if not job.ready and model not in self._ready:
            self._jobs = deque(other for other in self._jobs if other.model is not model)
            self.progress.append(Progress(model, failure=why))
        fields: dict[str, str | int] = {
            "model": model.served_as,
            "version": model.version,
            "device_kind": job.kind,
            "reason": why,
        }
        return [Report("ERROR", f"{model.served_as}: {why}", "model_failed", fields)]

    def _finish(self, job: Job, stopped: str, *, save: bool = True) -> list[ControllerCommand]:
        """Store the profile after all batch sizes are measured. Continue with the next job."""
        self._jobs.remove(job)
        if all(other.model is not job.model for other in self._jobs):
            self._ready.discard(job.model)
        if job.measured:
            self._update(job, job.measured, stopped=stopped)
        if not save or not job.measured:
            return []
        model, profile = job.model, job.model.profiles[job.kind]
        key = job.key
        self._known[key] = profile
        self._forget_unused()
        report = report_measured(model.served_as, job.kind, profile, " while serving", {"version": model.version})
        return [report] if job.short else [SaveProfile(key, profile), report]

    def _forget_unused(self) -> None:
        """Forget the oldest profiles of contents that are not loaded, if there are more than `MAX_UNUSED`."""
        used = {model.info.digest for model in self._state.models.values()}
        unused = [key for key in self._known if key.digest not in used]
        for key in unused[: max(0, len(unused) - MAX_UNUSED)]:
            del self._known[key]

    def _update(self, job: Job, infer: dict[int, Measurement], *, announce: bool = True, stopped: str = "") -> None:
        model = job.model
        loads = model.recent_loads(job.kind)
        load = Measurement(loads) if loads else model.profiles[job.kind].load_weights
        model.profiles[job.kind] = ModelProfile(
            load,
            infer,
            self._config.max_batch_size,
            job.shapes[0],
            unbatched=model.unbatched,
            stopped=stopped,
            first=job.first_compared_to(infer[1]),
        )
        if announce:
            self.progress.append(Progress(model))
