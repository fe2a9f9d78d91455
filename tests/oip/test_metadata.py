"""Metadata and statistics, the gRPC messages made of them, and the version of a model."""

from typing import Any

import pytest
import tritonclient.grpc.model_config_pb2 as triton_config
import tritonclient.grpc.service_pb2 as triton
from google.protobuf.json_format import ParseDict

from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.messages.counts import BatchCounts, ModelCounts
from clockwork.messages.requests import ModelStatus, ModelSummary
from clockwork.messages.results import ModelInfo
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.oip.metadata import (
    index_entry,
    model_metadata,
    model_statistics,
    server_metadata,
)
from clockwork.oip.model_config import model_config
from clockwork.units import SECOND, ms

INPUTS = tuple(TensorInfo(f"x{kind}", kind, (-1, 3)) for kind in Datatype)
OUTPUTS = (TensorInfo("y", "FP32", (-1, 5)),)
SUMMARY = ModelSummary("m", INPUTS, OUTPUTS, True, 8, 100)
ANSWERS = {"SUCCESS": 5, "TIMEOUT": 1, "SKIPPED_BY_CONTROLLER": 2, "CANCELLED": 1}
COUNTS = ModelCounts(
    ANSWERS,
    0,
    9,
    3,
    100,
    7,
    20,
    30,
    40,
    50,
    by_batch_size=(BatchCounts(1, 1, 2, 3, 4), BatchCounts(4, 2, 5, 6, 7)),
    last_success=ms(3),
)


def status(name: str, ready: bool = True) -> ModelStatus:
    return ModelStatus(
        ModelInfo(name, "m.onnx", "d", "r", INPUTS, OUTPUTS, True, 1, 1, name), {}, counts=COUNTS, ready=ready
    )


def test_statistics_have_every_request_and_batch() -> None:
    statistics = model_statistics(status("m"), 7 * SECOND)
    assert (statistics["inference_count"], statistics["execution_count"]) == (9, 3)
    assert statistics["last_inference"] == 7003
    sums = statistics["inference_stats"]
    assert sums["success"] == {"count": 5, "ns": 100}
    assert sums["fail"] == {"count": 4, "ns": 7}
    assert sums["queue"] == {"count": 5, "ns": 20}
    assert [sums[f"compute_{step}"]["ns"] for step in ("input", "infer", "output")] == [30, 40, 50]
    assert [batch["batch_size"] for batch in statistics["batch_stats"]] == [1, 4]
    assert statistics["batch_stats"][1]["compute_infer"] == {"count": 2, "ns": 6}


@pytest.mark.parametrize("name", ["ModelStatistics", "InferResponseStatistics", "MemoryUsage"])
def test_statistics_have_every_field_that_tritons_have(name: str) -> None:
    theirs, ours = (
        [(field.number, field.name, field.type) for field in getattr(messages, name).DESCRIPTOR.fields]
        for messages in (triton, pb)
    )
    assert ours == theirs
    statistics = model_statistics(status("m"), 7 * SECOND)
    if name == "ModelStatistics":
        assert set(statistics) == {field_name for _, field_name, _ in theirs}
    assert (statistics["response_stats"], statistics["memory_usage"]) == ({}, [])


def test_grpc_messages_are_made_of_the_same_dicts() -> None:
    statistics = pb.ModelStatistics(**model_statistics(status("m"), 7 * SECOND))
    assert (
        statistics.inference_count,
        statistics.inference_stats.fail.ns,
        statistics.batch_stats[1].compute_output.ns,
    ) == (9, 7, 7)
    config = pb.ModelConfig(**model_config(SUMMARY))
    assert (config.platform, config.backend, config.max_batch_size) == ("onnxruntime_onnx", "onnxruntime", 8)
    kinds = [pb.DataType.Name(tensor.data_type) for tensor in config.input]
    assert kinds == ["TYPE_STRING" if datatype is Datatype.BYTES else f"TYPE_{datatype}" for datatype in Datatype]
    assert list(config.output[0].dims) == [5]
    metadata = pb.ModelMetadataResponse(**model_metadata(SUMMARY, ["1", "2"]))
    assert list(metadata.versions) == ["1", "2"]
    assert (metadata.platform, list(metadata.inputs[0].shape)) == (config.platform, [-1, 3])
    assert list(pb.ServerMetadataResponse(**server_metadata("1", ["more"])).extensions)[-1] == "more"
    entry = index_entry("m", "2", "UNAVAILABLE", "it is broken")
    assert pb.RepositoryIndexResponse.ModelIndex(**entry).reason == "it is broken"
    assert pb.RepositoryIndexResponse.ModelIndex(**index_entry("m", "", "UNAVAILABLE", "")).version == ""


def triton_prints(config: Any, message: Any) -> None:
    """Check that a dict has every field of one of Triton's messages that such a model's configuration prints."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and not field.is_repeated:
            if field.name in config:
                triton_prints(config[field.name], getattr(message, field.name))
        else:
            assert field.name in config, field.full_name


def test_the_configuration_has_every_field_that_triton_prints() -> None:
    config = model_config(SUMMARY)
    triton_prints(config, triton_config.ModelConfig())
    for found in config["input"]:
        triton_prints(found, triton_config.ModelInput())
    triton_prints(config["output"][0], triton_config.ModelOutput())
    triton_prints(config["instance_group"][0], triton_config.ModelInstanceGroup())
    assert {"optimization", "version_policy", "dynamic_batching"} <= config.keys()
    first = {"optional": False, "format": "FORMAT_NONE", "dims": (3,), "allow_ragged_batch": False}
    assert first.items() <= config["input"][0].items()
    assert "dynamic_batching" not in model_config(ModelSummary("m", INPUTS, OUTPUTS, False, 8, 100))


def test_the_configuration_is_the_same_over_grpc() -> None:
    config = model_config(SUMMARY)
    sent = triton_config.ModelConfig.FromString(pb.ModelConfig(**config).SerializeToString())
    assert sent == ParseDict(config, triton_config.ModelConfig())
