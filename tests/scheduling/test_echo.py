"""The echo scheduler answers each request at once with its inputs."""

from builders import a_state, model_info, pending, tensors
from clockwork.messages.actions import InferInput
from clockwork.messages.commands import Answer
from clockwork.messages.status import Status
from clockwork.scheduling.echo import EchoScheduler


def test_a_request_is_answered_with_its_own_inputs() -> None:
    model = a_state([model_info("a")]).models["a"]
    request = pending(7, model, rows=2)
    assert EchoScheduler().infer(0, request) == [
        Answer(7, Status.SUCCESS, outputs=tensors(2), payload="payload-7"),
    ]


def test_a_request_with_generated_inputs_gets_no_outputs() -> None:
    model = a_state([model_info("a")]).models["a"]
    request = pending(7, model)
    request.input = InferInput(7, 1, tensors(), generated=True)
    assert EchoScheduler().infer(0, request) == [Answer(7, Status.SUCCESS)]
