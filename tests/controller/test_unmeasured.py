"""Models that accept no generated inputs: they are served, and their first requests are the measurement."""

import pytest
from msgspec.structs import replace

from builders import KIND, infer_request
from clockwork.controller.config import LoadSpec
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Infer
from clockwork.messages.requests import InferResponse
from clockwork.messages.results import ExampleInputs
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, spec
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.units import Nanos, ms, seconds
from cluster import QUICK, Cluster, quick_config
from fake_worker import FakeWorker, File

WHY = "it accepts none of the inputs that were tried"
FREE = (TensorInfo("x", "FP32", (-1,)),)
ODD = File(inputs=FREE, batchable=False, example=ExampleInputs(unmeasured=WHY))
"""A model that no generated input fits."""


def served(file: File, *, cap: Nanos = ms(50)) -> Cluster:
    """A server of one model, whose requests are planned with ``cap`` until one was executed."""
    profiling = replace(QUICK, unmeasured_cap=cap)
    config = quick_config(models=(LoadSpec("a.onnx"),), profiling=profiling)
    cluster = Cluster(ClockworkScheduler(), config)
    cluster.connect(FakeWorker("w0", {"a.onnx": file}))
    cluster.run_until(seconds(1))
    assert cluster.stage is Stage.SERVING
    return cluster


def ask(cluster: Cluster, id: int, *, size: int = 7, slo: Nanos = ms(100)) -> InferResponse:
    """Send a request and wait for its response."""
    cluster.ask(infer_request(id, inputs=(spec("x", "FP32", (size,)),), slo=slo))
    cluster.run_until(cluster.now + seconds(1))
    response = cluster.answer(id)
    assert isinstance(response, InferResponse)
    return response


def test_a_model_that_accepts_no_generated_inputs_is_served_unmeasured() -> None:
    cluster = served(ODD)
    assert not cluster.actions(Infer)
    assert not cluster.saved(), "an assumed time must not be stored"
    (report,) = cluster.reports("WARNING")
    assert report == (
        f"a is served without measured times: {WHY}; until one was executed, its requests are planned with 50 ms "
        "(set --unmeasured-cap, or give inputs with --model-shape)"
    )
    assert cluster.state.models["a"].profiles[KIND].unmeasured == WHY


def test_a_worker_that_found_no_inputs_itself_leaves_a_model_unmeasured_if_it_refuses_the_controllers() -> None:
    file = File(inputs=FREE, batchable=False, rejects="too long")
    cluster = served(file)
    assert cluster.state.models["a"].profiles[KIND].unmeasured == "Infer with batch size 1 failed: too long"


def test_the_first_request_of_an_unmeasured_model_is_promised_the_cap() -> None:
    cluster = served(ODD)
    response = ask(cluster, 1)
    assert response.status == Status.SUCCESS
    (action,) = cluster.actions(Infer)
    assert action.action.expected_duration == ms(50)


def test_the_first_request_of_an_unmeasured_model_sets_its_estimates() -> None:
    cluster = served(ODD)
    ask(cluster, 1)
    profile = cluster.state.models["a"].profiles[KIND]
    assert (profile.unmeasured, profile.infer[1].samples, profile.input_shapes) == ("", (ms(3),), ((7,),))
    ask(cluster, 2)
    assert cluster.actions(Infer)[-1].action.expected_duration == ms(3)


def test_another_shape_starts_from_the_first_request_of_an_unmeasured_model() -> None:
    cluster = served(ODD)
    ask(cluster, 1)
    ask(cluster, 2, size=70)
    assert cluster.actions(Infer)[-1].action.expected_duration == ms(3) * 10 * 2


def test_a_model_slower_than_the_cap_breaks_one_promise_and_is_then_refused() -> None:
    cluster = served(replace_infer(ODD, ms(300)))
    assert ask(cluster, 1).status == Status.TIMEOUT
    refused = ask(cluster, 2)
    assert refused.status == Status.CONTROLLER_COULD_NOT_START_IN_TIME
    assert "no device can meet this SLO: the fastest needs 30" in refused.message
    assert ask(cluster, 3, slo=ms(900)).status == Status.SUCCESS


@pytest.mark.parametrize(("cap", "admitted"), [(ms(50), False), (ms(10), True)])
def test_a_request_with_a_shorter_slo_than_the_cap_is_refused_with_the_option_in_its_message(
    cap: Nanos, admitted: bool
) -> None:
    response = ask(served(ODD, cap=cap), 1, slo=ms(40))
    assert (response.status == Status.SUCCESS) is admitted
    assert ("--unmeasured-cap" in response.message) is not admitted


def test_a_request_that_the_model_refuses_measures_nothing() -> None:
    cluster = served(ODD)
    cluster.workers["w0"].fail["Infer"] = (Status.INVALID_INPUT, "the model rejects these inputs")
    assert ask(cluster, 1).status == Status.INVALID_REQUEST
    assert cluster.state.models["a"].profiles[KIND].unmeasured == WHY


def test_a_model_is_measured_with_the_inputs_that_its_worker_found() -> None:
    inputs = (TensorInfo("x", "FP32", (-1, 3, -1, -1)),)
    example = ExampleInputs(((1, 3, 48, 320),), "--model-shape")
    cluster = served(File(inputs=inputs, example=example))
    shapes = [send.action.inputs[0].tensors[0].shape for send in cluster.actions(Infer)]
    assert shapes == [(1, 3, 48, 320), (1, 3, 48, 320), (2, 3, 48, 320), (2, 3, 48, 320)]
    assert cluster.saved()[0].profile.input_shapes == ((3, 48, 320),)


def replace_infer(file: File, infer: Nanos) -> File:
    return File(inputs=file.inputs, batchable=file.batchable, example=file.example, infer=infer)
