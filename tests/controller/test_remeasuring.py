"""A model whose estimates have grown beyond the SLO of its requests is executed again without a client."""

from builders import infer_request
from clockwork.controller.config import LoadSpec
from clockwork.messages.actions import Infer
from clockwork.messages.requests import InferResponse
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import Nanos, ms, seconds
from cluster import Cluster, quick_config
from fake_worker import FakeWorker, File

SLO = ms(30)
EVERY = ms(20)


class Disturbed:
    """A device that can be slowed down, and requests that arrive at a constant rate."""

    def __init__(self) -> None:
        self.worker = FakeWorker("w", {"a": File(infer=ms(5))})
        self.cluster = Cluster(make_scheduler("clockwork"), quick_config(models=(LoadSpec("a"),)))
        self.cluster.connect(self.worker)
        self.cluster.run_until(seconds(2))
        self.sent = 0

    def take(self, duration: Nanos) -> None:
        """Change the duration of each Infer."""
        self.worker.disk["a"] = File(infer=duration)

    def request_for(self, time: Nanos, slo: Nanos = SLO) -> list[InferResponse]:
        """Send requests for some time, and return their responses."""
        first, end = self.sent, self.cluster.now + time
        while self.cluster.now < end:
            self.cluster.ask(infer_request(self.sent, slo=slo))
            self.sent += 1
            self.cluster.run_until(self.cluster.now + EVERY)
        self.cluster.run_until(self.cluster.now + ms(100))
        answers = [self.cluster.answer(number) for number in range(first, self.sent)]
        return [answer for answer in answers if isinstance(answer, InferResponse)]

    def infers(self) -> int:
        """Return the number of Infers so far."""
        return len(self.cluster.actions(Infer))


def failed(responses: list[InferResponse]) -> list[InferResponse]:
    return [response for response in responses if response.status != Status.SUCCESS]


def test_requests_are_admitted_again_soon_after_a_disturbance_of_the_device() -> None:
    device = Disturbed()
    assert not failed(device.request_for(seconds(1)))
    device.take(ms(60))
    disturbed = device.request_for(seconds(1))
    assert len(failed(disturbed)) == len(disturbed)
    device.take(ms(5))
    responses = device.request_for(seconds(3))
    refused = failed(responses)
    assert len(refused) < seconds(1) // EVERY
    assert not any(response.admitted for response in refused)
    assert not failed(responses[seconds(1) // EVERY :])


def test_a_device_that_stays_slow_executes_little_without_clients() -> None:
    device = Disturbed()
    assert not failed(device.request_for(seconds(1)))
    device.take(ms(60))
    device.request_for(seconds(1))
    before = device.infers()
    assert len(failed(device.request_for(seconds(30)))) > 1000
    assert (device.infers() - before) * ms(60) < seconds(30) // 5


def test_a_device_that_is_slow_for_long_executes_ever_less_without_clients() -> None:
    device = Disturbed()
    assert not failed(device.request_for(seconds(1)))
    device.take(ms(60))
    device.request_for(seconds(61))
    before = device.infers()
    device.request_for(seconds(30))
    assert device.infers() - before < 10


def test_an_slo_that_no_device_can_meet_causes_few_executions() -> None:
    device = Disturbed()
    before = device.infers()
    device.request_for(seconds(30), slo=ms(1))
    assert device.infers() - before < 10
