"""Limits on the memory of checks of batches."""

from msgspec.structs import replace

from builders import a_state, model_info, pending
from clockwork.controller.config import VerifyingConfig
from clockwork.controller.events import CompareOutputs
from clockwork.controller.tally import Tally
from clockwork.controller.verifying import BatchChecks
from clockwork.messages.actions import Infer, InferInput
from clockwork.messages.results import InferOutput, InferResult, Timing
from clockwork.messages.tensors import TensorInfo, spec
from clockwork.state import ClockworkState
from clockwork.units import KIB, MIB

AT_ONCE = Timing(0, 0, 0)
FREE = (TensorInfo("x", "UINT8", (-1, -1)),)


class Checks:
    """Checks of batches of two requests."""

    def __init__(self, config: VerifyingConfig, warm: tuple[str, ...] = ("a", "b")) -> None:
        infos = [model_info("a", inputs=FREE), model_info("b", inputs=FREE)]
        self.state: ClockworkState = a_state(infos, warm=warm)
        self.tally = Tally(self.state)
        self.checks = BatchChecks(self.state, self.tally, config)
        self.last = 0

    def batch(self, length: int, model: str = "a") -> None:
        """Execute a batch whose inputs and outputs have ``length`` bytes each."""
        tensors = (spec("x", "UINT8", (1, length)),)
        self.last += 2
        inputs = tuple(InferInput(number, 1, tensors) for number in (self.last, self.last + 1))
        outputs = tuple(InferOutput(share.request_id, tensors) for share in inputs)
        action = Infer(self.last, 0, model, inputs)
        result = InferResult(self.last, outputs, AT_ONCE, AT_ONCE, AT_ONCE)
        known = self.state.models[model]
        for place in self.checks.places(action):
            request = pending(inputs[place].request_id, known)
            request.input, request.payload = inputs[place], bytearray(length)
            self.checks.keep(request, action, place, result, bytearray(length))
        self.checks.check_invariants()

    def skipped(self, model: str = "a") -> int:
        return self.tally.of(model).checks.get("skipped", 0)


def test_at_most_the_limit_of_requests_wait_and_the_rest_are_counted() -> None:
    bench = Checks(VerifyingConfig(max_waiting=5))
    for length in range(1, 101):
        bench.batch(length)
    assert len(bench.checks._samples.waiting) == 5
    assert bench.skipped() == 195


def test_at_most_the_limit_of_bytes_is_held() -> None:
    bench = Checks(VerifyingConfig(max_bytes=MIB, max_waiting=1000))
    for length in range(100 * KIB, 100 * KIB + 50):
        bench.batch(length)
    assert bench.checks._samples.nbytes <= MIB
    assert len(bench.checks._samples.waiting) == MIB // (3 * 100 * KIB)  # one input and two outputs each
    assert bench.skipped() == 100 - 3


def test_a_request_larger_than_the_limit_is_skipped_and_smaller_ones_are_not() -> None:
    bench = Checks(VerifyingConfig(max_bytes=MIB))
    bench.batch(2 * MIB)
    assert (len(bench.checks._samples.waiting), bench.skipped()) == (0, 2)
    bench.batch(KIB)
    assert (len(bench.checks._samples.waiting), bench.skipped()) == (2, 2)


def test_the_first_batch_of_a_shape_is_checked_when_fewer_requests_wait() -> None:
    bench = Checks(VerifyingConfig(0.0, max_waiting=2))
    bench.batch(1)
    bench.batch(2)
    assert bench.skipped() == 2
    bench.checks._samples.discard(lambda sample: True)
    bench.batch(2)
    assert len(bench.checks._samples.waiting) == 2


def test_the_table_of_shapes_does_not_grow_beyond_its_limit() -> None:
    bench = Checks(VerifyingConfig(0.0, max_uses=100, max_waiting=100_000, max_bytes=1000 * MIB))
    for length in range(1, 50_001):
        bench.batch(1 + length % 1000 + length // 1000 * 1000)
        bench.checks._samples.discard(lambda sample: True)
    assert len(bench.checks._uses) == 100


def test_requests_of_a_model_on_no_device_are_skipped_for_others() -> None:
    bench = Checks(VerifyingConfig(max_waiting=4), warm=("b",))
    bench.batch(1)
    bench.batch(2)
    assert bench.checks.begin(0, 1000) is None
    bench.batch(1, "b")
    assert bench.skipped() == 4
    request = bench.checks.begin(0, 1000)
    assert request is not None
    assert request.model.name == "b"
    bench.checks.check_invariants()


def test_the_bytes_of_a_check_count_until_it_is_over() -> None:
    bench = Checks(VerifyingConfig(max_bytes=5 * KIB, attempts=1))
    bench.batch(KIB)
    assert bench.skipped() == 1  # 3 KiB each
    request = bench.checks.begin(0, 1000)
    assert request is not None
    bench.batch(KIB)
    assert bench.skipped() == 1  # this kind of batch is known, and 1 in 1000 is checked
    bench.batch(KIB + 1)
    assert bench.skipped() == 3
    bench.checks.failed()
    assert bench.checks._samples.nbytes == 0
    bench.batch(KIB + 1)
    assert len(bench.checks._samples.waiting) == 1


def test_a_check_that_was_executed_in_a_batch_is_tried_again() -> None:
    bench = Checks(VerifyingConfig())
    bench.batch(3)
    request = bench.checks.begin(0, 1000)
    assert request is not None
    output = InferOutput(1000, request.input.tensors)
    assert bench.checks.executed(Infer(1, 0, "a", (request.input, request.input)), output, b"") == []
    again = bench.checks.begin(0, 1001)
    assert again is not None
    assert again.payload is request.payload
    (compare,) = bench.checks.executed(Infer(2, 0, "a", (again.input,)), output, b"")
    assert isinstance(compare, CompareOutputs)
    bench.checks.check_invariants()


def test_a_check_repeats_the_request_with_an_id_of_its_own() -> None:
    bench = Checks(VerifyingConfig(slo=50))
    bench.batch(3)
    request = bench.checks.begin(7, 1000)
    assert request is not None
    assert request.input == replace(first_input(bench), request_id=1000)
    assert (request.id, request.arrival, request.deadline) == (1000, 7, 57)


def first_input(bench: Checks) -> InferInput:
    assert bench.checks._samples.current is not None
    return bench.checks._samples.current.input
