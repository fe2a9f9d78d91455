"""Messages that would take too much of the server's time are refused before they are parsed."""

import gc
from typing import Any

import grpc
import pytest

from client.live import LOOPBACK, run, serving
from clockwork.errors import InvalidRequestError
from clockwork.frontend.listing import PER_STEP, ListFormat, encoded_list
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend import serve_grpc, service
from clockwork.grpc_frontend.scanning import (
    MAX_DESCRIPTION,
    MAX_FIELDS,
    MAX_OTHER_METHOD,
    MAX_TYPED,
    MAX_TYPED_FLOATS,
    check_infer,
)
from clockwork.messages.tensors import MAX_TENSORS
from clockwork.scheduling.echo import EchoScheduler
from clockwork.steps import at_once
from clockwork.units import KIB, MIB
from http_raw import served

METHOD = "/inference.GRPCInferenceService/"
TENSOR = pb.ModelInferRequest.InferInputTensor


def tensor(**contents: Any) -> pb.ModelInferRequest.InferInputTensor:
    message: pb.ModelInferRequest.InferInputTensor = TENSOR(
        name="x", datatype="FP32", shape=[1, 4], contents=pb.InferTensorContents(**contents)
    )
    return message


def message(*inputs: pb.ModelInferRequest.InferInputTensor, **fields: Any) -> bytes:
    encoded: bytes = pb.ModelInferRequest(model_name="m", inputs=inputs, **fields).SerializeToString()
    return encoded


def text(value: str) -> pb.InferParameter:
    return pb.InferParameter(string_param=value)


RIGHT = {
    "raw": message(TENSOR(name="x"), raw_input_contents=[bytes(8 * MIB)]),
    "floats": message(tensor(fp32_contents=[0.5] * (MAX_TYPED_FLOATS // 4 - 8))),
    "doubles": message(tensor(fp64_contents=[0.5] * (MAX_TYPED_FLOATS // 8 - 8))),
    "integers": message(tensor(int_contents=[1] * (MAX_TYPED - 8))),
    "texts": message(tensor(bytes_contents=[b"12"] * (MAX_TYPED // 4 - 8))),
    "many tensors": message(
        *(TENSOR(name=f"{at}", datatype="INT64", shape=[1] * 16) for at in range(MAX_TENSORS)),
        raw_input_contents=[bytes(100)] * MAX_TENSORS,
    ),
    "no contents": message(tensor(), raw_input_contents=[bytes(MIB)]),
}
WRONG = {
    "integers": (message(tensor(int_contents=[1] * (MAX_TYPED + 1))), "send raw_input_contents"),
    "of two tensors": (message(*[tensor(uint_contents=[1] * (MAX_TYPED // 2))] * 2), "send raw_input_contents"),
    "texts": (message(tensor(bytes_contents=[b""] * (MAX_TYPED // 2 + 1))), "send raw_input_contents"),
    "floats": (
        message(tensor(fp32_contents=[0.5] * (MAX_TYPED_FLOATS // 4 + 1))),
        r"exceed the limit of 4\.0 MiB of floats",
    ),
    "floats and others": (
        message(tensor(fp32_contents=[0.5] * (MAX_TYPED // 4), int_contents=[1])),
        "send raw_input_contents",
    ),
    "parameters": (
        message(parameters={f"{at}": text("a" * 100) for at in range(1000)}),
        "names, shapes and parameters exceed the limit",
    ),
    "parameters of a tensor": (
        message(TENSOR(name="x", parameters={"a": text("a" * MAX_DESCRIPTION)})),
        "names, shapes and parameters exceed the limit",
    ),
    "tensors": (message(*[TENSOR()] * 10_000), f"more than {MAX_FIELDS} fields"),
    "names": (
        message(TENSOR(name="x"), id="a" * (MAX_DESCRIPTION + 1), raw_input_contents=[bytes(MIB)]),
        "names, shapes and parameters exceed the limit",
    ),
    "a name": (message(id="a" * (MAX_DESCRIPTION + 1)), "names, shapes and parameters exceed the limit"),
    "a group": (b"\x0b" * 20_000, "not a valid ModelInferRequest"),
    "no message": (b"\xff" * 20_000, "not a valid ModelInferRequest"),
    "a cut message": (
        message(TENSOR(name="x"), raw_input_contents=[bytes(20_000)])[:-1],
        "not a valid ModelInferRequest",
    ),
}


@pytest.mark.parametrize("what", RIGHT)
def test_messages_within_the_limits_are_accepted(what: str) -> None:
    check_infer(RIGHT[what])


@pytest.mark.parametrize("what", WRONG)
def test_messages_beyond_a_limit_are_refused(what: str) -> None:
    data, why = WRONG[what]
    with pytest.raises(InvalidRequestError, match=why):
        check_infer(data)


async def code_of(channel: grpc.aio.Channel, method: str, data: bytes) -> tuple[str, str]:
    try:
        await channel.unary_unary(METHOD + method)(data)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def test_expensive_calls_are_refused_without_converting_elements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def converted(*_: Any) -> None:
        raise AssertionError("the elements were converted")

    async def test() -> None:
        async with served(EchoScheduler()) as (_, _, host, _), serve_grpc(host, LOOPBACK) as server:
            options = [("grpc.max_send_message_length", -1)]
            async with grpc.aio.insecure_channel(str(server.address), options) as channel:
                code, why = await code_of(channel, "ModelInfer", WRONG["integers"][0])
                assert (code, "send raw_input_contents" in why) == ("INVALID_ARGUMENT", True)
                code, why = await code_of(channel, "ModelReady", bytes(MAX_OTHER_METHOD + 1))
                assert (code, "at most 64.0 KiB" in why) == ("INVALID_ARGUMENT", True)

                stream = channel.stream_stream(METHOD + "ModelStreamInfer")
                answers = [
                    pb.ModelStreamInferResponse.FromString(data) async for data in stream(iter([WRONG["integers"][0]]))
                ]
                assert [("send raw_input_contents" in answer.error_message) for answer in answers] == [True]

                monkeypatch.setattr(service, "with_payload", converted)
                rows = TENSOR(name="x", datatype="FP32", shape=[100, 4])
                rows.contents.fp32_contents.extend([0.5] * 400)
                code, why = await code_of(channel, "ModelInfer", message(rows))
                assert (code, "100" in why) == ("INVALID_ARGUMENT", True)
                raw = TENSOR(name="x", datatype="FP32", shape=[100, 4])
                code, why = await code_of(channel, "ModelInfer", message(raw, raw_input_contents=[bytes(32 * KIB)]))
                assert (code, "100" in why) == ("INVALID_ARGUMENT", True)
                nobody = pb.ModelInferRequest(model_name="nobody", inputs=[rows]).SerializeToString()
                assert (await code_of(channel, "ModelInfer", nobody))[0] == "NOT_FOUND"
            assert host.description().tally.of("m").named() == {"INVALID_REQUEST": 2}

    run(test())


def test_a_failed_call_does_not_keep_its_message() -> None:
    """No reference cycle keeps the message until the garbage collector runs."""

    async def test() -> None:
        memory = {"payload_bytes": 32 * MIB}
        async with serving(guarded=memory) as (host, _), serve_grpc(host, LOOPBACK) as server:
            assert host.arena is not None
            async with grpc.aio.insecure_channel(str(server.address)) as channel:
                await channel.channel_ready()
                gc.collect()
                gc.disable()
                try:
                    code, _ = await code_of(channel, "ModelInfer", WRONG["names"][0])
                    assert (code, host.arena.taken) == ("INVALID_ARGUMENT", 0)
                finally:
                    gc.enable()

    run(test())


def test_statistics_and_the_index_are_encoded_in_steps() -> None:
    names = [f"m{at}" for at in range(10 * PER_STEP)]
    listed: list[str] = []

    def entries() -> Any:
        for name in names:
            listed.append(name)
            yield {"name": name}

    form = ListFormat(service._encode_index)
    assert [len(listed) for _ in encoded_list(entries(), form)] == [PER_STEP * step for step in range(1, 11)]
    encoded = b"".join(at_once(encoded_list(entries(), form)))
    assert [model.name for model in pb.RepositoryIndexResponse.FromString(encoded).models] == names
    assert b"".join(at_once(encoded_list((), form))) == b""
