"""The id of a request: the client's, else the trace id, else the server's, in every response of every protocol."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from clockwork.client import Client
from clockwork.errors import ClockworkError
from clockwork.frontend.id_header import header_value
from clockwork.messages.request_ids import ID_HEADER, MAX_REQUEST_ID, trace_context, trace_id
from oip.conformance import A, B, Server, ask, infer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
OURS = r"[0-9a-f]{8}-[0-9]+"


def post(server: Server, body: Any, **headers: str) -> Any:
    return ask(server, "POST", "/v2/models/two/infer", body, **headers)


def test_an_http_response_has_the_clients_id_else_the_trace_id_else_an_own_one(server: Server) -> None:
    mine = post(server, {"id": "mine", "inputs": [A, B]}, traceparent=PARENT)
    traced = post(server, {"inputs": [A, B]}, traceparent=f"\t {PARENT} \t")
    ours = [post(server, {"inputs": [A, B]}) for _ in range(2)]
    assert mine.json()["id"] == mine.headers[ID_HEADER] == "mine"
    assert traced.json()["id"] == traced.headers[ID_HEADER] == TRACE
    found = [reply.headers[ID_HEADER] for reply in ours]
    assert [reply.json()["id"] for reply in ours] == found
    assert all(re.fullmatch(OURS, request_id) for request_id in found)
    assert found[0] != found[1]


@pytest.mark.parametrize("inputs", [[A], [A, {**B, "shape": [2, 1]}]])
def test_an_http_error_has_the_id_too(server: Server, inputs: Any) -> None:
    mine = post(server, {"id": "a b\r\n/ü", "inputs": inputs})
    assert mine.status == 400
    assert mine.json()["id"] == "a b\r\n/ü"
    assert mine.headers[ID_HEADER] == "a b%0D%0A/%C3%BC"
    ours = post(server, {"inputs": inputs})
    assert re.fullmatch(OURS, ours.json()["id"])


def test_a_late_or_refused_http_request_has_its_id(server: Server) -> None:
    refused = post(server, {"id": "late", "inputs": [A, B], "parameters": {"timeout": 1}})
    assert refused.status in (503, 504)
    # a busy server refuses the request before it reads the body
    assert re.fullmatch(f"late|{OURS}", refused.headers[ID_HEADER])


def test_a_long_id_is_cut_in_the_header_only(server: Server) -> None:
    reply = infer(server, "two", A, B, id="x" * 5000)
    assert reply.json()["id"] == "x" * 5000
    assert reply.headers[ID_HEADER] == "x" * MAX_REQUEST_ID


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def message(**more: Any) -> Any:
    def tensor(name: str, *values: float) -> Any:
        contents = pb.InferTensorContents(fp32_contents=values)
        return pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=(1, 2), contents=contents)

    return pb.ModelInferRequest(model_name="two", inputs=[tensor("a", 1, 2), tensor("b", 3, 4)], **more)


def test_a_grpc_response_has_the_clients_id_else_the_trace_id_else_an_own_one(stub: Any) -> None:
    traced = (("traceparent", PARENT),)
    assert stub.ModelInfer(message(id="mine"), metadata=traced).id == "mine"
    assert stub.ModelInfer(message(), metadata=traced).id == TRACE
    assert re.fullmatch(OURS, stub.ModelInfer(message()).id)
    (streamed,) = stub.ModelStreamInfer(iter([message()]), metadata=traced)
    assert streamed.infer_response.id == TRACE


def test_a_grpc_error_has_the_id_in_its_trailing_metadata(stub: Any) -> None:
    for request, expected in ((message(id="mine\n"), "mine%0A"), (message(), OURS)):
        del request.inputs[1]
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert re.fullmatch(expected, dict(caught.value.trailing_metadata())[ID_HEADER])
    (streamed,) = stub.ModelStreamInfer(iter([request]))
    assert re.fullmatch(OURS, streamed.infer_response.parameters["request_id"].string_param)


def test_the_native_client_has_the_id_of_results_and_errors(server: Server) -> None:
    row = np.ones((1, 2), np.float32)
    with Client(server.native) as client:
        assert client.infer("two", {"a": row, "b": row}, request_id="mine").request_id == "mine"
        assert re.fullmatch(OURS, client.infer("two", {"a": row, "b": row}).request_id)
        long = client.infer("two", {"a": row, "b": row}, request_id="x" * 1000)
        assert long.request_id == "x" * MAX_REQUEST_ID
        with pytest.raises(ClockworkError) as caught:
            client.infer("two", {"a": row}, request_id="wrong")
        assert caught.value.request_id == "wrong"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        PARENT[:-1],
        PARENT.upper(),
        f"0x-{TRACE}",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT}-more",
    ],
)
def test_an_invalid_traceparent_gives_no_id(wrong: str) -> None:
    assert trace_id(wrong) == ""


def test_several_values_of_traceparent_are_no_trace_context() -> None:
    assert trace_context([PARENT], ["a=1", "b=2"]) == (PARENT, "a=1,b=2")
    assert trace_context([PARENT, PARENT], ["a=1"]) == ("", "")
    assert trace_context([], ["a=1"]) == ("", "")


def test_an_http_request_with_two_traceparents_has_an_own_id(server: Server) -> None:
    twice = (("traceparent", PARENT), ("traceparent", PARENT.replace("4", "5")))
    body = json.dumps({"inputs": [A, B]}).encode()
    with closing(HTTPConnection(server.http, timeout=30)) as connection:
        connection.putrequest("POST", "/v2/models/two/infer")
        for name, value in (*twice, ("content-length", str(len(body)))):
            connection.putheader(name, value)
        connection.endheaders(body)
        assert re.fullmatch(OURS, json.loads(connection.getresponse().read())["id"])


def test_a_traceparent_of_a_later_version_gives_its_id() -> None:
    assert trace_id(f"01-{TRACE}-00f067aa0ba902b7-01-what-comes") == TRACE


def test_a_header_value_has_only_printable_ascii() -> None:
    assert header_value("a-b c/d%") == "a-b c/d%"
    assert header_value("a\0\x7f\u2028%") == "a%00%7F%E2%80%A8%25"
