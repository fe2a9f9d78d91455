"""Executes a worker's tasks with a runtime, and measures their times.

If a device is lost, this module raises an exception, because the worker cannot continue. Every other failure of a task
becomes a `TaskFailed` with a status that names the cause. Only unexpected failures are logged, with their traceback.
This module keeps no state. A task contains its models, weights and payloads as handles, which earlier tasks created.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from clockwork.clock import Clock
from clockwork.errors import ClockworkError, DeviceLostError, InvalidModelError, InvalidRequestError
from clockwork.host.log_events import event_fields
from clockwork.host.received_models import ReceivedModels
from clockwork.messages.actions import Action, Infer, InferInput, LoadModelFromDisk, LoadWeights
from clockwork.messages.results import DeviceTime, ErrorResult, InferOutput, InferResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.repository.model_root import resolve
from clockwork.runtimes.base import Batch, HostModel, LoadedModel, Payload, Runtime
from clockwork.runtimes.locating import version_of
from clockwork.units import Nanos
from clockwork.worker.events import (
    Executed,
    ModelRead,
    Outcome,
    Released,
    ResultCommand,
    SendResult,
    StartTask,
    TaskFailed,
    TaskFinished,
    WeightsLoaded,
)

log = logging.getLogger("clockwork.worker")


class PreparedTask(Struct, frozen=True):
    """A batch that was assembled before its Infer started. ``timing`` is None if the assembly failed."""

    task: StartTask
    batch: Batch = None
    timing: Timing | None = None

    def is_of(self, task: StartTask) -> bool:
        """Return whether the batch was assembled for this task.

        The result is False if the weights were evicted and loaded again after the batch was assembled.
        """
        return self.task.action is task.action and self.task.handles[0] is task.handles[0]


class ResultToSend(Struct, frozen=True):
    """A result, and the buffers that are sent with it in this order."""

    result: Result
    buffers: Sequence[Payload] = ()


class _Share(NamedTuple):
    """One request's part of the outputs of an Infer: the specs and buffers, or the failure of the request."""

    specs: tuple[TensorSpec, ...] = ()
    buffers: Sequence[Payload] = ()
    failure: TaskFailed | None = None

    def output(self, request: InferInput) -> InferOutput:
        """Return this share as a message. ``request`` is the request to which the share belongs."""
        if self.failure is None:
            return InferOutput(request.request_id, self.specs)
        failed = self.failure.status == Status.RUNTIME_ERROR
        return InferOutput(request.request_id, (), self.failure.message or self.failure.status.name, failed)


class _Outputs(NamedTuple):
    """The outputs of an Infer, and their model.

    If the requests were executed one by one, ``singles`` contains their shares.
    """

    model: LoadedModel
    batch: Batch
    singles: Sequence[_Share] = ()

    def device_time(self) -> DeviceTime | None:
        """Return the time that the device measured, or None if the requests were executed one by one."""
        return None if self.singles else self.model.device_time(self.batch)

    def shares(self, inputs: Sequence[InferInput]) -> Sequence[_Share]:
        """Return each request's share, in the order of ``inputs``."""
        if self.singles:
            return self.singles
        return [_Share(specs, buffers) for specs, buffers in self.model.split(inputs, self.batch)]


class TaskRunner:
    """Executes tasks and completes their results. Several threads may call it at the same time."""

    def __init__(
        self, runtime: Runtime, model_root: Path, clock: Clock, received: ReceivedModels | None = None
    ) -> None:
        """``model_root`` is the directory that contains all models, except those ``received`` from the controller."""
        self._received = received
        self._runtime = runtime
        self._root = model_root
        self._clock = clock

    def prepare(self, task: StartTask) -> PreparedTask:
        """Assemble the batch of an Infer that has not started.

        If this fails, `run` will fail too and report the error.

        The model's weights may be evicted during the call, because the Infer has not started. In this case, the batch
        is not used.
        """
        assert isinstance(task.action, Infer)
        begin = self._clock.now()
        try:
            batch = self._assemble(task.action, task)
        except DeviceLostError:
            raise
        except Exception:  # noqa: BLE001 - `run` will raise it again
            return PreparedTask(task)
        return PreparedTask(task, batch, self._timing(begin))

    def worth_preparing(self, task: StartTask) -> bool:
        """Return whether a thread should assemble the batch in advance.

        A thread saves time only if inputs must be copied. The inputs of several requests are copied into one batch. The
        input of a single request is normally used without a copy.
        """
        if isinstance(task.action, Infer) and task.action.apart:
            return False
        return len(task.payloads) > 1 or _loaded_model(task.handles[0]).uploads

    def run(self, task: StartTask, prepared: PreparedTask | None = None) -> TaskFinished:
        """Execute a task."""
        begin = self._clock.now()
        outcome = self._outcome(task, prepared)
        return TaskFinished(task.gpu, task.lane, begin, self._clock.now(), outcome)

    def _outcome(self, task: StartTask, prepared: PreparedTask | None) -> Outcome:
        try:
            match task.action:
                case LoadModelFromDisk():
                    try:
                        return self._read(task.action)
                    finally:
                        if self._received is not None:
                            self._received.pinned.discard(task.action.content)
                case LoadWeights():
                    (model,) = task.handles
                    return WeightsLoaded(_host_model(model).load_weights(task.action.gpu))
                case Infer():
                    return self._infer(task.action, task, prepared)
            return _close(task.handles)
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - reported, and logged if unexpected
            return _failed(task.action, error)

    def _read(self, action: LoadModelFromDisk) -> Outcome:
        try:
            path = resolve(self._root_for(action), action.path, self._runtime.links)
        except InvalidModelError as error:
            return TaskFailed(Status.INVALID_MODEL_PATH, str(error))
        file = self._runtime.locate(path, action.name)
        model = self._runtime.load_model(path, action.name, isolated=action.isolated)
        info = model.info
        batched = f"not batched: {info.unbatched or 'its runtime does not batch'}" if not info.batchable else "batched"
        log.info(
            "model %s is %s",
            action.name,
            batched,
            extra=event_fields("model_batching", model=action.name, reason=info.unbatched),
        )
        return ModelRead(
            model,
            info.digest,
            info.runtime,
            info.inputs,
            info.outputs,
            info.batchable,
            info.weights_bytes,
            info.max_batch,
            version_of(path, file),
            info.example,
            info.trial,
        )

    def _root_for(self, action: LoadModelFromDisk) -> Path:
        """Return the directory to which the path of a load is relative.

        Raises:
            InvalidModelError: the files of the content are missing.
        """
        if not action.content:
            return self._root
        root = None if self._received is None else self._received.tree(action.content)
        if root is None:
            raise InvalidModelError(f"the received files of {action.path!r} are missing: load the model again")
        return root

    def _assemble(self, action: Infer, task: StartTask) -> Batch:
        return _loaded_model(task.handles[0]).assemble(action.inputs, task.payloads)

    def _infer(self, action: Infer, task: StartTask, prepared: PreparedTask | None) -> Outcome:
        model = _loaded_model(task.handles[0])
        if action.apart:
            return self._one_by_one(action, task, model)
        try:
            if prepared is not None and prepared.timing is not None and prepared.is_of(task):
                batch, copied_in = prepared.batch, prepared.timing
            else:
                begin = self._clock.now()
                batch = self._assemble(action, task)
                copied_in = self._timing(begin)
            begin = self._clock.now()
            outputs = model.execute(batch)
        except DeviceLostError:
            raise
        except Exception:
            if len(action.inputs) == 1:
                raise
            return self._one_by_one(action, task, model)
        return Executed(_Outputs(model, outputs), copied_in, self._timing(begin))

    def _one_by_one(self, action: Infer, task: StartTask, model: LoadedModel) -> Outcome:
        """Execute each request of a batch alone, so that a request that fails does not make the others fail.

        If the execution of every request fails, the requests are not the cause, and the whole Infer fails.
        """
        begin = self._clock.now()
        shares: list[_Share] = []
        for request, payload in zip(action.inputs, task.payloads, strict=True):
            try:
                outputs = model.execute(model.assemble((request,), (payload,)))
                ((specs, buffers),) = model.split((request,), outputs)
                # A device has few output buffers. A copy frees the buffers for the next request.
                shares.append(_Share(specs, [bytes(buffer) for buffer in buffers]))
            except DeviceLostError:
                raise
            except Exception as error:  # noqa: BLE001 - reported, and logged if unexpected
                shares.append(_Share(failure=_failed(action, error)))
        failures = [share.failure for share in shares if share.failure is not None]
        if len(failures) == len(shares) and all(failure.status == Status.RUNTIME_ERROR for failure in failures):
            return failures[0]
        return Executed(_Outputs(model, None, shares), Timing(begin, begin, 0), self._timing(begin))

    def finish(self, answer: ResultCommand) -> ResultToSend:
        """Complete the result of a task, and return it with its buffers."""
        if isinstance(answer, SendResult):
            return ResultToSend(answer.result)
        action = answer.action
        begin = self._clock.now()
        outputs = _outputs(answer.outputs)
        try:
            shares = outputs.shares(action.inputs)
            device = outputs.device_time()
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - reported, and logged if unexpected
            failed = _failed(action, error)
            return ResultToSend(ErrorResult(action.id, Infer.__name__, failed.status, failed.message))
        specs = tuple([share.output(request) for request, share in zip(action.inputs, shares, strict=True)])
        result = InferResult(action.id, specs, answer.copy_input, answer.exec, self._timing(begin), device)
        return ResultToSend(result, [buffer for share in shares for buffer in share.buffers])

    def _timing(self, begin: Nanos) -> Timing:
        end = self._clock.now()
        return Timing(begin, end, end - begin)


def _failed(action: Action, error: Exception) -> TaskFailed:
    if isinstance(error, InvalidModelError):
        return TaskFailed(Status.INVALID_MODEL, str(error))
    if isinstance(error, InvalidRequestError):
        return TaskFailed(Status.INVALID_INPUT, str(error))
    if isinstance(error, ClockworkError):
        return TaskFailed(Status.RUNTIME_ERROR, str(error))
    log.error("%s %d failed unexpectedly", type(action).__name__, action.id, exc_info=error)
    return TaskFailed(Status.RUNTIME_ERROR, "the worker failed unexpectedly; its log has the exception")


def _close(handles: Sequence[object]) -> Outcome:
    """Close all weights, even if some of them cannot be closed."""
    failures = 0
    for handle in handles:
        try:
            _loaded_model(handle).close()
        except DeviceLostError:
            raise
        except Exception:
            log.exception("weights could not be closed")
            failures += 1
    if failures:
        return TaskFailed(
            Status.RUNTIME_ERROR, f"{failures} weights could not be closed; the worker's log has the exceptions"
        )
    return Released()


# The core stores handles as plain objects. These functions convert the handles back to their types.


def _host_model(handle: Any) -> HostModel:
    model: HostModel = handle
    return model


def _outputs(handle: Any) -> _Outputs:
    outputs: _Outputs = handle
    return outputs


def _loaded_model(handle: Any) -> LoadedModel:
    model: LoadedModel = handle
    return model
