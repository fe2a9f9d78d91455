"""What checks of batches keep in memory, at most."""

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
    """Checks of batches of two requests, whose inputs and outputs have ``length`` bytes each."""

    def __init__(self, config: VerifyingConfig, warm: tuple[str, ...] = ("a", "b")) -> None:
        infos = [model_info("a", inputs=FREE), model_info("b", inputs=FREE)]
        self.state: ClockworkState = a_state(infos, warm=warm)
        self.tally = Tally()
        self.checks = BatchChecks(self.state, self.tally, config)
        self.last = 0

    def batch(self, length: int, model: str = "a") -> None:
        """A batch was executed and delivered."""
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


def test_no_more_requests_wait_than_the_limit_and_the_rest_are_counted() -> None:
    it = Checks(VerifyingConfig(max_waiting=5))
    for length in range(1, 101):
        it.batch(length)
    assert len(it.checks._waiting) == 5
    assert it.skipped() == 195


def test_no_more_bytes_are_held_than_the_limit() -> None:
    it = Checks(VerifyingConfig(max_bytes=MIB, max_waiting=1000))
    for length in range(100 * KIB, 100 * KIB + 50):
        it.batch(length)
    assert it.checks._bytes <= MIB
    assert len(it.checks._waiting) == MIB // (3 * 100 * KIB)  # its inputs, and the outputs of both requests
    assert it.skipped() == 100 - 3


def test_a_request_that_is_larger_than_the_limit_is_skipped_and_smaller_ones_are_not() -> None:
    it = Checks(VerifyingConfig(max_bytes=MIB))
    it.batch(2 * MIB)
    assert (len(it.checks._waiting), it.skipped()) == (0, 2)
    it.batch(KIB)
    assert (len(it.checks._waiting), it.skipped()) == (2, 2)


def test_the_first_batch_of_a_shape_is_checked_when_there_is_room_again() -> None:
    it = Checks(VerifyingConfig(0.0, max_waiting=2))
    it.batch(1)
    it.batch(2)
    assert it.skipped() == 2
    it.checks._waiting.clear()
    it.checks._bytes = 0
    it.batch(2)
    assert len(it.checks._waiting) == 2


def test_fifty_thousand_shapes_leave_a_table_of_the_size_of_the_limit() -> None:
    it = Checks(VerifyingConfig(0.0, max_uses=100, max_waiting=100_000, max_bytes=1000 * MIB))
    for length in range(1, 50_001):
        it.batch(1 + length % 1000 + length // 1000 * 1000)
        it.checks._waiting.clear()
        it.checks._bytes = 0
    assert len(it.checks._uses) == 100


def test_requests_of_a_model_that_is_nowhere_make_room_for_others() -> None:
    it = Checks(VerifyingConfig(max_waiting=4), warm=("b",))
    it.batch(1)
    it.batch(2)
    assert it.checks.begin(0, 1000) is None
    it.batch(1, "b")
    assert it.skipped() == 4
    request = it.checks.begin(0, 1000)
    assert request is not None
    assert request.model.name == "b"
    it.checks.check_invariants()


def test_what_a_check_holds_counts_until_it_is_over() -> None:
    it = Checks(VerifyingConfig(max_bytes=5 * KIB, attempts=1))
    it.batch(KIB)
    assert it.skipped() == 1  # 3 KiB each
    request = it.checks.begin(0, 1000)
    assert request is not None
    it.batch(KIB)
    assert it.skipped() == 1  # the size is known, and 1 in 1000 is checked
    it.batch(KIB + 1)
    assert it.skipped() == 3
    it.checks.failed()
    assert it.checks._bytes == 0
    it.batch(KIB + 1)
    assert len(it.checks._waiting) == 1


def test_a_check_that_was_executed_with_others_proves_nothing_and_is_tried_again() -> None:
    it = Checks(VerifyingConfig())
    it.batch(3)
    request = it.checks.begin(0, 1000)
    assert request is not None
    output = InferOutput(1000, request.input.tensors)
    assert it.checks.executed(Infer(1, 0, "a", (request.input, request.input)), output, b"") == []
    again = it.checks.begin(0, 1001)
    assert again is not None
    assert again.payload is request.payload
    (compare,) = it.checks.executed(Infer(2, 0, "a", (again.input,)), output, b"")
    assert isinstance(compare, CompareOutputs)
    it.checks.check_invariants()


def test_a_check_repeats_the_request_with_an_id_of_its_own() -> None:
    it = Checks(VerifyingConfig(slo=50))
    it.batch(3)
    request = it.checks.begin(7, 1000)
    assert request is not None
    assert request.input == replace(it_first(it), request_id=1000)
    assert (request.id, request.arrival, request.deadline) == (1000, 7, 57)


def it_first(it: Checks) -> InferInput:
    assert it.checks._sample is not None
    return it.checks._sample.input
