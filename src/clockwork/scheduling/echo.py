"""Answers every request at once with its own inputs: what the system costs when no model is executed."""

from typing import ClassVar

from mypy_extensions import mypyc_attr

from clockwork.messages.actions import EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import Answer
from clockwork.messages.results import Result
from clockwork.messages.status import Status
from clockwork.scheduling.base import Scheduler
from clockwork.state import GPUState, PendingRequest
from clockwork.units import Nanos


@mypyc_attr(allow_interpreted_subclasses=True)
class EchoScheduler(Scheduler):
    """Sends no action, ever. The outputs are the inputs, name by name; generated inputs come back as nothing."""

    name: ClassVar[str] = "echo"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        """Answer with the request's inputs."""
        if request.input.generated:
            return [Answer(request.id, Status.SUCCESS)]
        return [Answer(request.id, Status.SUCCESS, outputs=request.input.tensors, payload=request.payload)]

    def result(
        self, now: Nanos, gpu: GPUState, action: LoadWeights | EvictWeights | Infer, result: Result
    ) -> list[Answer]:
        """Nothing was sent, so nothing comes back."""
        return []
