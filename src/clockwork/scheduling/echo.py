"""Answers every request at once with its own inputs.

A test with this policy measures the cost of everything but execution.
"""

from typing import ClassVar

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import DeviceAction
from clockwork.messages.commands import Answer
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import GPUState, ModelState, PendingRequest
from clockwork.units import Nanos


@mypyc_attr(allow_interpreted_subclasses=True)
class EchoScheduler(Scheduler):
    """Makes no actions. The outputs are the inputs. If inputs are generated, there are no outputs."""

    name: ClassVar[str] = "echo"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Answer with the request's inputs."""
        if request.input.generated:
            return [Answer(request.id, Status.SUCCESS)]
        return [Answer(request.id, Status.SUCCESS, outputs=request.input.tensors, payload=request.payload)]

    def result(self, now: Nanos, gpu: GPUState, action: DeviceAction, result: Result) -> list[Answer]:
        """Do nothing, because the scheduler makes no actions."""
        return []

    def model_added(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Do nothing, because the scheduler does not use models."""
        return []

    def model_removed(self, now: Nanos, model: ModelState) -> list[Answer]:
        """Do nothing, because the scheduler does not use models."""
        return []
