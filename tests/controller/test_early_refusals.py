"""Refusals of requests before their elements are decoded, and the list of models for clients."""

import pytest
from msgspec.structs import replace

from builders import a_state, infer_request, model_info, profile
from clockwork.controller.config import ControllerConfig
from clockwork.controller.description import Summaries
from clockwork.controller.serving import Serving
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.status import Status
from clockwork.messages.tensors import MAX_TENSORS, TensorSpec, spec
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import ModelState


def early(request: InferRequest, *, measured: bool = True) -> tuple[Serving, InferResponse | None]:
    state = a_state([model_info()])
    for model in state.models.values():
        model.profiles = dict(model.profiles) if measured else {}
    serving = Serving(state, EchoScheduler(), ControllerConfig())
    serving.start(0)
    refused = serving.refusing.refuse_early(0, 1, request)
    if refused is None:
        return serving, None
    assert isinstance(refused.response, InferResponse)
    return serving, refused.response


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (infer_request(1, inputs=(spec("x", "FP64", (1, 2)),)), "input 'x' has datatype FP64"),
        (infer_request(1, rows=100), "request has 100 rows"),
        (infer_request(1, inputs=(TensorSpec("x" * 60_000, "FP32", (1, 2), 0),)), f"input name {'x' * 40!r}... has"),
        (infer_request(1, inputs=(TensorSpec("x", "FP32", (1, 2), 0),) * (MAX_TENSORS + 1)), "257 inputs; at most"),
    ],
)
def test_wrong_inputs_are_refused_with_a_short_message_and_counted(request_: InferRequest, why: str) -> None:
    serving, refused = early(request_)
    assert refused is not None
    assert refused.status == Status.INVALID_REQUEST
    assert why in refused.message
    assert len(refused.message) < 500
    assert serving.tally.of("a").named() == {"INVALID_REQUEST": 1}


def test_an_unknown_model_is_refused() -> None:
    serving, refused = early(infer_request(1, "nobody"))
    assert refused is not None
    assert refused.status == Status.UNKNOWN_MODEL
    assert serving.tally.without_model() == {"UNKNOWN_MODEL": 1}


def test_a_request_that_only_sizes_or_the_profile_rule_out_is_not_refused_early() -> None:
    assert early(infer_request(1, inputs=(TensorSpec("x", "FP32", (1, 2), 0),)))[1] is None
    assert early(infer_request(1, rows=100), measured=False)[1] is None


def test_models_are_described_again_after_one_has_got_a_profile() -> None:
    state = a_state([model_info()])
    serving = Serving(state, EchoScheduler(), ControllerConfig())
    serving.start(0)
    summaries = Summaries(serving.catalog)
    first = summaries.after(1)
    assert [model.max_batch_size for model in first] == [4]
    assert summaries.after(1) is first
    state.models["a"].profiles["slow"] = profile(max_batch_size=2)
    assert [model.max_batch_size for model in summaries.after(2)] == [2]


def test_models_are_described_again_after_a_version_was_loaded_promoted_or_unloaded() -> None:
    state = a_state([model_info()])
    serving = Serving(state, EchoScheduler(), ControllerConfig())
    serving.start(0)
    summaries, catalog = Summaries(serving.catalog), serving.catalog

    def described() -> list[tuple[str, str, bool, tuple[str, ...]]]:
        return [(each.name, each.version, each.default, each.labels) for each in summaries.after(1)]

    assert described() == [("a", "1", True, ())]
    second = ModelState(replace(model_info(), name="a/2"))
    second.served_as, second.version = "a", "2"
    catalog.load("a", "2")
    catalog.serve("2", second)
    assert described() == [("a", "1", False, ()), ("a", "2", True, ())]
    catalog.promote("a", "1")
    catalog.promote("a", "2", "canary")
    assert described() == [("a", "1", True, ()), ("a", "2", False, ("canary",))]
    catalog.unload("a", "1", "unloaded")
    assert described() == [("a", "2", True, ("canary",))]
