"""Requests with an optional input are planned and executed alone; those without it share batches."""

import pytest

from builders import a_gpu, infer_request, model_info
from clockwork.controller.config import LoadSpec
from clockwork.controller.stage import Stage
from clockwork.messages.actions import Infer, InferInput
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorInfo, TensorSpec, spec
from clockwork.scheduling.registry import make_scheduler
from clockwork.units import ms, seconds
from cluster import QUICK, Cluster, quick_config
from fake_worker import FakeWorker, File

INPUTS = (TensorInfo("x", "FP32", (-1, 2)), TensorInfo("factor", "FP32", (1,), True))
X = spec("x", "FP32", (1, 2))
FACTOR = spec("factor", "FP32", (1,))


def answered(policy: str, *requests: tuple[TensorSpec, ...]) -> list[tuple[int, ...]]:
    """Send requests at once; return the ids of each batch, with 0 in front if it is executed one by one."""
    cluster = Cluster(make_scheduler(policy), quick_config(models=(LoadSpec("a.onnx"),), profiling=QUICK))
    cluster.connect(FakeWorker("w0", {"a.onnx": File(inputs=INPUTS)}))
    cluster.run_until(seconds(1))
    assert cluster.stage is Stage.SERVING
    measured = len(cluster.actions(Infer))
    assert {send.action.inputs[0].tensors for send in cluster.actions(Infer)} == {(X,), (spec("x", "FP32", (2, 2)),)}
    for number, inputs in enumerate(requests, 1):
        cluster.ask(infer_request(number, inputs=inputs, slo=ms(500)))
    cluster.run_until(seconds(2))
    assert cluster.statuses() == [Status.SUCCESS] * len(requests)
    batches = [send.action for send in cluster.actions(Infer)[measured:]]
    return [(0,) * action.apart + tuple(share.request_id for share in action.inputs) for action in batches]


@pytest.mark.parametrize("policy", ["clockwork", "fifo", "edf", "simple"])
def test_requests_with_an_optional_input_are_executed_alone(policy: str) -> None:
    batches = answered(policy, *[(X, FACTOR)] * 6, *[(X,)] * 2)
    assert all(len(batch) == 1 for batch in batches if batch[0] < 7)


@pytest.mark.parametrize("policy", ["clockwork", "fifo", "edf"])
def test_requests_without_optional_inputs_share_batches(policy: str) -> None:
    batches = answered(policy, *[(X,)] * 6)
    assert max(map(len, batches)) == 2


def test_a_batch_that_a_scheduler_makes_of_optional_inputs_is_executed_one_by_one() -> None:
    state, gpu = a_gpu([model_info("a", inputs=INPUTS)], warm=("a",))
    plain, other = InferInput(1, 1, (X,)), InferInput(2, 1, (X, FACTOR))
    model = state.models["a"]
    assert gpu.infer_inputs(model, (plain, other)).apart
    assert gpu.infer_inputs(model, (other, other)).apart
    assert not gpu.infer_inputs(model, (plain, plain)).apart
    assert not gpu.infer_inputs(model, (other,)).apart
