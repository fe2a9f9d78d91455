"""What became of the requests that came through this front end, per model: Triton's statistics.

Rules of the file: no clock and no I/O; times are those that the controller tells with each answer.
"""

from dataclasses import dataclass
from typing import Final

from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.infer import VERSION
from clockwork.messages.requests import InferResponse
from clockwork.messages.status import Status
from clockwork.units import Nanos

_OF_NO_MODEL: Final = (Status.UNKNOWN_MODEL, Status.INVALID_REQUEST, Status.INITIALIZING, Status.SHUTTING_DOWN)
"""Told before anybody knows that there is such a model."""


@dataclass
class _Sums:
    succeeded: int = 0
    succeeded_ns: Nanos = 0
    failed: int = 0
    failed_ns: Nanos = 0
    queue_ns: Nanos = 0
    exec_ns: Nanos = 0
    rows: int = 0
    executions: float = 0.0


class Tally:
    """Sums per model. Only names of models that are served get in, so it does not grow with what clients make up."""

    def __init__(self) -> None:
        """Nothing has been counted."""
        self._sums: dict[str, _Sums] = {}

    def count(self, model: str, response: InferResponse) -> None:
        """A request was answered."""
        timing = response.timing
        if response.status == Status.SUCCESS:
            sums = self._sums.setdefault(model, _Sums())
            sums.succeeded += 1
            sums.succeeded_ns += timing.total
            sums.queue_ns += timing.queue
            sums.exec_ns += timing.exec
            rows = _rows(response)
            sums.rows += rows
            sums.executions += rows / max(rows, timing.batch_size)
        elif response.status not in _OF_NO_MODEL or model in self._sums:
            sums = self._sums.setdefault(model, _Sums())
            sums.failed += 1
            sums.failed_ns += timing.total

    def statistics_of(self, model: str) -> pb.ModelStatistics:
        """``execution_count`` counts a batch as far as it was filled by what came through here, to the next integer."""
        sums = self._sums.get(model, _Sums())
        done = sums.succeeded
        return pb.ModelStatistics(
            name=model,
            version=VERSION,
            inference_count=sums.rows,
            execution_count=round(sums.executions),
            inference_stats=pb.InferStatistics(
                success=pb.StatisticDuration(count=done, ns=sums.succeeded_ns),
                fail=pb.StatisticDuration(count=sums.failed, ns=sums.failed_ns),
                queue=pb.StatisticDuration(count=done, ns=sums.queue_ns),
                compute_infer=pb.StatisticDuration(count=done, ns=sums.exec_ns),
            ),
        )


def _rows(response: InferResponse) -> int:
    """A batch of one is all that models have which cannot be batched."""
    shape = response.outputs[0].shape if response.outputs else ()
    return min(shape[0], response.timing.batch_size) if shape and response.timing.batch_size > 1 else 1
