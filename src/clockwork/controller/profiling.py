"""Measures each model content once on each kind of device.

Theory of operation. A *job* measures one `ProfileKey` (content, runtime and kind of device), for all models that share
this key. All jobs wait in one queue, from which each device takes jobs of its own kind. A device executes only one job
at a time, so no other work disturbs a measurement. All devices measure at the same time. A device that is too small for
a model does not measure it. If a worker is lost, its job returns to the queue. A job that fails is tried again, and the
last attempt is lenient (see `measure`). After ``attempts`` failures, the models of the job are broken. Broken models
are not served, and `broken` contains the reason. A model that accepts no generated inputs is not broken. The profile of
such a model contains an assumed time. The time is replaced when the model's first requests have been executed
(`ModelState.executed_first`). This profile is not stored on disk.
"""

from collections import deque

from msgspec.structs import replace

from clockwork.controller.config import ProfilingConfig
from clockwork.controller.events import Report, SaveProfile
from clockwork.controller.measuring import Script, measure, report_measured
from clockwork.errors import ClockworkError
from clockwork.messages.commands import SendAction
from clockwork.messages.profile import ModelProfile, ProfileKey
from clockwork.messages.requests import Progress
from clockwork.messages.results import Result
from clockwork.state import ClockworkState, GPUState, ModelState, WorkerState
from clockwork.units import Nanos, show_duration

ProfilingCommand = SendAction | SaveProfile | Report


class _Job:
    """A profile to measure, and the models that share the profile."""

    def __init__(self, key: ProfileKey) -> None:
        self.key = key
        self.models: list[ModelState] = []

    def fits(self, gpu: GPUState) -> ModelState | None:
        """Return a model of the job that the device can measure, or None."""
        if self.key.device_kind != gpu.kind:
            return None
        return next((model for model in self.models if gpu.can_hold(model.name)), None)


class Profiler:
    """Runs jobs on the devices of the workers that were added with `add`."""

    def __init__(self, state: ClockworkState, config: ProfilingConfig, known: dict[ProfileKey, ModelProfile]) -> None:
        """``known`` contains the profiles that were measured earlier. New profiles are added to ``known``."""
        self._state = state
        self._config = config
        self._known = known
        self._gpus: list[GPUState] = []  #: devices that may measure
        self._queue: deque[_Job] = deque()
        self._running: dict[GPUState, tuple[_Job, Script]] = {}
        self._attempts: dict[ProfileKey, int] = {}
        self._done = 0
        self._measured = 0
        self._started: Nanos = 0
        self.assigned = 0  #: number of profiles that models have received
        self.broken: dict[str, str] = {}  #: model -> why it is not served

    @property
    def busy(self) -> bool:
        """Whether any job waits or runs."""
        return bool(self._queue or self._running)

    def covers(self, worker: WorkerState) -> bool:
        """Return whether all models of a worker are measured or broken, and no job runs on its devices."""
        models = [self._state.models[name] for name in worker.models if name in self._state.models]
        known = all(worker.measured(model) or model.name in self.broken for model in models)
        return known and not any(gpu in self._running for gpu in worker.gpus)

    def add(self, now: Nanos, worker: WorkerState) -> list[ProfilingCommand]:
        """Add a worker's devices, and begin jobs for its models that have no profile."""
        if not self.busy:
            self._started, self._done, self._measured = now, 0, 0
        for kind in sorted({gpu.kind for gpu in worker.gpus}):
            gpus = [gpu for gpu in worker.gpus if gpu.kind == kind]
            for name in sorted(worker.models):
                wanted = name not in self.broken and name in self._state.models
                if wanted and any(gpu.can_hold(name) for gpu in gpus):
                    self._need(self._state.models[name], kind)
        self._gpus += [gpu for gpu in worker.gpus if gpu not in self._gpus]
        return self._assign()

    def assign_known(self, model: ModelState, kind: str) -> bool:
        """Give a model its known profile for a kind of device.

        Return false if no such profile is known.
        """
        if kind in model.profiles:
            return True
        profile = self._known.get(ProfileKey(model.info.digest, model.info.runtime, kind))
        if profile is not None and profile.unbatched:
            model.stop_batching(profile.unbatched)
        if profile is None or profile.max_batch_size < self._config.max_batch_size:
            return False
        model.profiles[kind] = _limited(profile, self._config.max_batch_size)
        self.assigned += 1
        return True

    def release(self, worker: WorkerState) -> None:
        """Remove a worker's devices, because they now serve requests."""
        assert not any(gpu in self._running for gpu in worker.gpus)
        self._gpus = [gpu for gpu in self._gpus if gpu.worker_id != worker.id]

    def result(self, gpu: GPUState, result: Result) -> list[ProfilingCommand]:
        """Handle the result of an action that measures a model on this device.

        Call this after the device's state is updated.
        """
        return self._step(gpu, result)

    def worker_lost(self, now: Nanos, worker: WorkerState) -> list[ProfilingCommand]:
        """Return the jobs of a lost worker to the queue, so that other devices of the same kind take them."""
        commands: list[ProfilingCommand] = []
        self._gpus = [gpu for gpu in self._gpus if gpu.worker_id != worker.id]
        for gpu in worker.gpus:
            if gpu in self._running:
                job, script = self._running.pop(gpu)
                script.close()
                commands += self._retry(job, f"worker {worker.id} was lost during the measurement")
        self._queue = deque(job for job in self._queue if any(job.fits(gpu) for gpu in self._gpus))
        return commands + self._assign()

    def progress(self, now: Nanos) -> Progress:
        """Return the number of measured models, the number of all models, and an estimate of the remaining time."""
        left = sum(len(job.models) for job in self._queue)
        left += sum(len(job.models) for job, _ in self._running.values())
        remaining = None
        if self._measured and self.busy:
            jobs_left = len(self._queue) + len(self._running)
            remaining = (now - self._started) * jobs_left // self._measured
        return Progress(self._done, self._done + left, remaining)

    def _need(self, model: ModelState, kind: str) -> None:
        if kind in model.profiles:
            return
        key = ProfileKey(model.info.digest, model.info.runtime, kind)
        if self.assign_known(model, kind):
            self._done += 1
            return
        jobs = [*self._queue, *(job for job, _ in self._running.values())]
        job = next((job for job in jobs if job.key == key), None)
        if job is None:
            job = _Job(key)
            self._queue.append(job)
        if model not in job.models:
            job.models.append(model)

    def _assign(self) -> list[ProfilingCommand]:
        commands: list[ProfilingCommand] = []
        for gpu in self._gpus:
            if gpu not in self._running:
                commands += self._begin(gpu)
        return commands

    def _begin(self, gpu: GPUState) -> list[ProfilingCommand]:
        for job in list(self._queue):
            job.models = [model for model in job.models if self._state.models.get(model.name) is model]
            if not job.models:  # all were unloaded while the job waited
                self._queue.remove(job)
                continue
            model = job.fits(gpu)
            if model is not None:
                self._queue.remove(job)
                last = self._attempts.get(job.key, 0) + 1 >= self._config.attempts
                script = measure(gpu, model, self._config, lenient=last)
                self._running[gpu] = (job, script)
                return self._step(gpu, None)
        return []

    def _step(self, gpu: GPUState, result: Result | None) -> list[ProfilingCommand]:
        """Pass a result to the measurement of a device. When the measurement ends, begin the next job."""
        job, script = self._running[gpu]
        try:
            script.send(result) if result is not None else next(script)
            return [queued.command() for queued in self._state.actions.take()]
        except StopIteration as end:
            commands = self._finish(job, end.value)
        except ClockworkError as error:
            commands = self._retry(job, str(error))
        del self._running[gpu]
        return commands + self._begin(gpu)

    def _finish(self, job: _Job, profile: ModelProfile) -> list[ProfilingCommand]:
        profile = replace(profile, unbatched=job.models[0].unbatched)
        self._known[job.key] = profile
        for model in job.models:
            model.profiles[job.key.device_kind] = profile
        self.assigned += len(job.models)
        self._done += len(job.models)
        self._measured += 1
        if profile.unmeasured:
            return [_report_unmeasured(job, profile)]
        return [SaveProfile(job.key, profile), report_measured(job.models[0].name, job.key.device_kind, profile)]

    def _retry(self, job: _Job, why: str) -> list[ProfilingCommand]:
        names = ", ".join(model.name for model in job.models)
        attempts = self._attempts[job.key] = self._attempts.get(job.key, 0) + 1
        if attempts < self._config.attempts:
            self._queue.append(job)
            return [Report("WARNING", f"measuring {names} failed and will be tried again: {why}")]
        self._done += len(job.models)
        del self._attempts[job.key]  # a client may load the model again
        for model in [model for model in job.models if model.name in self._state.models]:
            self.broken[model.name] = f"it could not be measured on {job.key.device_kind}: {why}"
        text = f"{names} cannot be served on {job.key.device_kind}, because it could not be measured: {why}"
        fields: dict[str, str | int] = {"model": names, "device_kind": job.key.device_kind, "reason": why}
        return [Report("ERROR", text, "model_failed", fields)]


def _report_unmeasured(job: _Job, profile: ModelProfile) -> Report:
    name, cap = job.models[0].name, show_duration(profile.infer[1].p99)
    text = f"{name} is served without measured times: {profile.unmeasured}; until one was executed, its requests are "
    text += f"planned with {cap} (set --unmeasured-cap, or give inputs with --model-shape)"
    return Report("WARNING", text, "model_unmeasured", {"model": name, "reason": profile.unmeasured})


def _limited(profile: ModelProfile, max_batch_size: int) -> ModelProfile:
    """Return a profile without the batch sizes above a limit."""
    infer = {size: times for size, times in profile.infer.items() if size <= max_batch_size}
    stopped = profile.stopped if len(infer) == len(profile.infer) else ""
    return replace(profile, infer=infer, max_batch_size=max_batch_size, stopped=stopped)
