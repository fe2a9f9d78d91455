"""Random interleavings of events: each request is answered once and all counts add up; see `interleavings`."""

import pytest

from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.echo import EchoScheduler
from clockwork.scheduling.edf import EdfScheduler
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.scheduling.simple import SimpleScheduler
from interleavings import check_interleavings
from schedulers import Eager, Forgetful, Furious, Muddled


@pytest.mark.parametrize(
    "scheduler",
    [ClockworkScheduler, EdfScheduler, FifoScheduler, SimpleScheduler, EchoScheduler, Eager, Forgetful],
)
def test_each_request_is_answered_once_with_a_correct_scheduler(scheduler: type[Scheduler]) -> None:
    check_interleavings(scheduler)


@pytest.mark.parametrize("scheduler", [Furious, Muddled])
def test_each_request_is_answered_once_with_a_faulty_scheduler(scheduler: type[Scheduler]) -> None:
    check_interleavings(scheduler, faultless=False)
