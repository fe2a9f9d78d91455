"""Messages are encoded and decoded, and payloads are split into the parts of requests."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockwork.errors import ProtocolError
from clockwork.messages import actions, explanation, link, requests, results, timeline
from clockwork.messages.counts import BatchCounts, DeviceCounts, ModelCounts
from clockwork.messages.findings import Finding, Level
from clockwork.messages.prediction import ErrorSummary, PredictionSummary
from clockwork.messages.profile import Measurement, ModelProfile
from clockwork.messages.scaling import KindScaling
from clockwork.messages.shadows import OutputComparison, ShadowStatus
from clockwork.messages.tensors import TensorInfo, TensorSpec, spec
from clockwork.units import FOREVER
from clockwork.wire.codec import (
    decode_action,
    decode_request,
    decode_response,
    decode_result,
    encode,
    input_sizes,
    output_sizes,
    split_payload,
)

X = spec("x", "FP32", (2, 3))
TIMING = results.Timing(1, 5, 4)
INFO = results.ModelInfo("m", "m.onnx", "d", "r", (TensorInfo("x", "FP32", (-1, 3)),), (), True, 10, 1, "m")
GPU = results.GPUInfo(0, "cpu", 100, ("m",))

LINK = [
    link.Hello("worker", "w0", "clockwork"),
    link.Welcome("clockwork", 1),
    link.Goodbye("why"),
    link.Ping(1),
    link.Pong(1, 2, 3),
]
ACTIONS = [
    actions.LoadModelFromDisk(1, "m.onnx", "m", 2, 0, FOREVER),
    actions.UnloadModel(2, ("m",)),
    actions.LoadWeights(3, 0, "m", 10, 20, 5),
    actions.EvictWeights(4, 0, "m"),
    actions.Infer(
        5, 0, "m", (actions.InferInput(7, 2, (X,), ("y",)), actions.InferInput(8, 1, (X,), (), True)), 1, 2, 3
    ),
    actions.ClearCache(6),
    actions.GetWorkerState(7),
    actions.FetchModel(8, "c", 10),
]
RESULTS = [
    results.ErrorResult(1, "Infer", 11, "late"),
    results.LoadModelFromDiskResult(2, (INFO,), TIMING),
    results.UnloadModelResult(3),
    results.LoadWeightsResult(4, TIMING),
    results.EvictWeightsResult(5, TIMING),
    results.InferResult(
        6, (results.InferOutput(7, (X,)), results.InferOutput(8, (), "no", failed=True)), TIMING, TIMING, TIMING
    ),
    results.ClearCacheResult(7),
    results.GetWorkerStateResult(
        8, results.WorkerInfo(16, (GPU,), (INFO,), (Finding("swap", Level.BAD, "1 GiB in use"),))
    ),
    results.FetchModelResult(9, 10),
]
REQUESTS = [
    requests.InferRequest(1, "m", (X,), 100, 2.5, ("y",), True),
    requests.CancelRequest(2),
    requests.LoadModelRequest(3, "m.onnx", "m", 2, (requests.ModelVersion("2", "m/2"),), True, False),
    requests.UnloadModelRequest(7, "m", "2", False),
    requests.PromoteRequest(8, "m", "2", "stable"),
    requests.ShadowRequest(9, "m", "2", 0.5),
    requests.ListModelsRequest(4),
    requests.EvictRequest(5, "m"),
    requests.StatusRequest(6),
    requests.ListRequestsRequest(10, "refused", "m", 5),
    requests.ExplainRequest(11, "a-1"),
    timeline.TimelineRequest(12, 1, 2, 3, 4),
]
WRONG = ErrorSummary(9, 3, 1, 2, 3, 4, 5, 6, 7)
PREDICTED = {"infer": PredictionSummary(WRONG, WRONG, WRONG, 8, 1)}
STATUS = requests.ServerStatus(
    "1",
    "clockwork",
    "serving",
    requests.Progress(1, 2, 3),
    4,
    (requests.WorkerStatus("w0", True, 16, (requests.GPUStatus(GPU, 1, 2, PREDICTED, DeviceCounts(1, 2)),)),),
    (
        requests.ModelStatus(
            INFO,
            {"cpu": ModelProfile(Measurement((1,)), {1: Measurement((2, 3))})},
            1,
            predictions=PREDICTED,
            counts=ModelCounts({"SUCCESS": 1}, 2, by_batch_size=(BatchCounts(1, 2, 3, 4, 5),)),
            ready=True,
        ),
    ),
    {"broken": "why"},
    12,
    PREDICTED,
    {"UNKNOWN_MODEL": 3},
    True,
    shadows=(
        ShadowStatus(
            "m", "2", 0.5, "running", "", 4, 3, 2, 1, "why", 1, {"shape": 1}, (OutputComparison("y", "FP32"),)
        ),
    ),
    scaling=(KindScaling("cpu", 1, 2, "why", 1.5),),
)
ACTION = explanation.ExplainedAction("infer", "m", 2, 1, 2, None, 4, None, "why")
EXPLANATION = explanation.Explanation(
    *("a-1", "m", "1", 0, 5, "in_time", "", False, "SUCCESS", "", 1, True, 100, "why", 50, 60, None, "w0/gpu0"),
    action=ACTION,
    mates=("a-2",),
    ahead=(ACTION,),
    steps=(explanation.Step("exec", 1, 2),),
    compared=(explanation.Comparison("exec", None, 2),),
)
RESPONSES = [
    requests.InferResponse(1, 0, "", (X,), requests.RequestTiming(1, 2, 3, 4, True), 5, 6),
    requests.LoadModelResponse(2, 0, "", ("m-1", "m-2")),
    requests.UnloadModelResponse(7, 0, "", ("1", "2")),
    requests.PromoteResponse(8, 6, "why"),
    requests.ShadowResponse(9, 6, "why"),
    requests.ListModelsResponse(3, 0, "", (requests.ModelSummary("m", (), (), True, 8, 10),)),
    requests.EvictResponse(4, 0, "", 1),
    requests.StatusResponse(5, STATUS),
    requests.ListRequestsResponse(
        10, 0, "", (explanation.RequestSummary("a-1", "m", "1", "refused", "device_busy", 1, 2, 3, False, "why"),)
    ),
    requests.ExplainResponse(11, 0, "", EXPLANATION),
    timeline.TimelineResponse(
        12,
        0,
        "",
        timeline.Timeline(
            9,
            *(8, 7, 6, 5, 4),
            ("w0/gpu0",),
            (timeline.TimelineAction(1, 2, "w0/gpu0", "infer", "m", requests=("a-1",), begin=3, input=(1, 2)),),
        ),
    ),
    requests.ErrorResponse(6, 1, "bad"),
]

Decode = Callable[[bytes], Any]
DIRECTIONS: list[tuple[Decode, list[Any], Any]] = [
    (decode_request, REQUESTS, requests.Request),
    (decode_response, RESPONSES, requests.Response),
    (decode_action, ACTIONS, actions.Action),
    (decode_result, RESULTS, results.Result),
]


@pytest.mark.parametrize(
    ("decode", "message"),
    [(decode, message) for decode, messages, _ in DIRECTIONS for message in messages + LINK],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_unchanged_by_encoding_and_decoding(decode: Decode, message: Any) -> None:
    assert decode(encode(message)) == message


def test_a_status_without_predictions_and_counts_is_understood() -> None:
    whole = msgspec.to_builtins(STATUS)
    for fields, kind in (
        (whole, requests.ServerStatus),
        (whole[5][0][3][0], requests.GPUStatus),
        (whole[6][0], requests.ModelStatus),
    ):
        del fields[kind.__struct_fields__.index("predictions") :]
    server = msgspec.convert(whole, requests.ServerStatus)
    assert (server.predictions, server.workers[0].gpus[0].predictions, server.models[0].predictions) == ({}, {}, {})
    assert (server.without_model, server.models[0].counts) == ({}, ModelCounts())
    assert (server.ready, server.models[0].ready) == (False, False)
    assert server.broken == STATUS.broken


def test_a_level_of_a_newer_version_is_a_note() -> None:
    finding = msgspec.msgpack.decode(msgspec.msgpack.encode(["heat", "melting", "90 C"]), type=Finding)
    assert finding == Finding("heat", Level.NOTE, "90 C")


@pytest.mark.parametrize(("messages", "union"), [(m, u) for _, m, u in DIRECTIONS] + [(LINK, link.LinkMessage)])
def test_every_type_of_message_is_tested(messages: list[Any], union: Any) -> None:
    assert [type(message) for message in messages] == list(get_args(union))


@pytest.mark.parametrize("direction", range(len(DIRECTIONS)))
def test_a_message_of_another_direction_is_refused(direction: int) -> None:
    decode = DIRECTIONS[direction][0]
    for other, (_, messages, _) in enumerate(DIRECTIONS):
        for message in messages if other != direction else []:
            with pytest.raises(ProtocolError, match=r"header is not an? (request|response|action|result)"):
                decode(encode(message))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x00",
        b"\x91\x63",
        b"\x82\x01\x02\x03\x04",
        b"\x92\x06\x01\x01",
        b"\x92\x06\xa1\xff",
        b"\x93\x01\x01\xa1\xff",
        encode(actions.ClearCache(1)) + b"!",
        b"\x93\x02\x01\xdd\xff\xff\xff\xff",  # four billion elements, none of them there
        b"\x94\x02\x01\x90" + b"\x91" * 100_000,  # nested too deeply
        b"\x93\x02\x01\xdb\xff\xff\xff\xff",
    ],
    ids=lambda header: header[:8].hex() or "empty",
)
def test_an_invalid_header_is_a_protocol_error(header: bytes) -> None:
    for decode, _, _ in DIRECTIONS:
        with pytest.raises(ProtocolError):
            decode(header)


@given(st.binary(max_size=60))
def test_random_bytes_are_a_message_or_a_protocol_error(noise: bytes) -> None:
    for decode, _, _ in DIRECTIONS:
        with suppress(ProtocolError):
            decode(noise)


@pytest.mark.parametrize(
    ("decode", "message"),
    [(decode, message) for decode, messages, _ in DIRECTIONS for message in messages + LINK],
    ids=lambda message: type(message).__name__,
)
def test_a_message_of_a_newer_version_with_more_fields_is_understood(decode: Decode, message: Any) -> None:
    newer = [*msgspec.msgpack.decode(encode(message)), {"a": ["new", "field"]}]
    assert decode(msgspec.msgpack.encode(newer)) == message


@pytest.mark.parametrize(
    ("decode", "message"),
    [(decode, message) for decode, messages, _ in DIRECTIONS for message in messages + LINK],
    ids=lambda message: type(message).__name__,
)
def test_a_message_of_an_older_version_without_the_fields_that_have_defaults_is_understood(
    decode: Decode, message: Any
) -> None:
    fields = msgspec.structs.fields(message)
    required = [field.name for field in fields if field.required]
    older = msgspec.msgpack.decode(encode(message))[: 1 + len(required)]
    understood = decode(msgspec.msgpack.encode(older))
    assert type(understood) is type(message)
    assert [getattr(understood, name) for name in required] == [getattr(message, name) for name in required]


def test_the_parts_of_a_batch_are_views_of_its_payload() -> None:
    y = TensorSpec("y", "BYTES", (1,), 5)
    action = actions.Infer(
        1,
        0,
        "m",
        (
            actions.InferInput(1, 2, (X, y)),
            actions.InferInput(2, 2, (X,), (), generated=True),
            actions.InferInput(3, 1, (y,)),
        ),
    )
    sizes = input_sizes(action)
    assert sizes == [29, 0, 5]
    payload = bytearray(range(34))
    first, none, last = split_payload(payload, sizes)
    assert (bytes(first), bytes(none), bytes(last)) == (bytes(range(29)), b"", bytes(range(29, 34)))
    payload[0] = 99
    assert first[0] == 99
    result = results.InferResult(1, (results.InferOutput(1, (X,)), results.InferOutput(2, ())), TIMING, TIMING, TIMING)
    assert output_sizes(result) == [24, 0]


def test_an_array_is_split_by_its_bytes() -> None:
    array = np.arange(4, dtype="<i2")
    assert [bytes(part) for part in split_payload(array.data, [2, 6])] == [array[:1].tobytes(), array[1:].tobytes()]


@pytest.mark.parametrize("sizes", [[], [3], [3, 3], [6, -1], [5, 1]])
def test_sizes_that_do_not_add_up_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ProtocolError, match=f"payload has 5 bytes, but the message describes {sum(sizes)}"):
        split_payload(b"12345", sizes)
