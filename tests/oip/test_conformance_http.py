"""The Open Inference Protocol v2 over HTTP, rule by rule: each test is named after a rule of the protocol.

Sources: "HTTP/REST" of the Open Inference Protocol, and Triton's extensions: binary tensor data, classification,
statistics, model repository, model configuration, schedule policy.
"""

import struct
from typing import Any

import pytest

from oip.conformance import ECHOES, A, B, Server, ask, binary, infer, tensor

MODEL_PATHS = ("/v2/models/dense", "/v2/models/dense/versions/1")
SUM, DIFFERENCE = [11.0, 32.0], [-9.0, -28.0]
PACKED = struct.pack("<2f", 1, 2), struct.pack("<2f", 10, 30)


def outputs(content: Any) -> dict[str, Any]:
    return {output["name"]: output for output in content["outputs"]}


# -------------------------------------------------------------------------------------------------- health, metadata


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", *(f"{path}/ready" for path in MODEL_PATHS)])
def test_a_200_status_code_indicates_true(server: Server, path: str) -> None:
    assert ask(server, "GET", path).status == 200


@pytest.mark.parametrize("path", ["/v2/models/nobody/ready", "/v2/models/dense/versions/2/ready"])
def test_a_4xx_status_code_indicates_false(server: Server, path: str) -> None:
    assert 400 <= ask(server, "GET", path).status < 500


def test_server_metadata_has_name_version_and_extensions(server: Server) -> None:
    content = ask(server, "GET", "/v2").json()
    assert {name: type(value) for name, value in content.items()} == {"name": str, "version": str, "extensions": list}
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(content["extensions"])


@pytest.mark.parametrize("path", MODEL_PATHS)
def test_model_metadata_has_names_datatypes_and_shapes_and_a_variable_dimension_is_minus_1(
    server: Server, path: str
) -> None:
    content = ask(server, "GET", path).json()
    assert content["name"] == "dense"
    assert content["versions"] == ["1"]
    assert isinstance(content["platform"], str)
    assert content["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 32]}]
    assert content["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 5]}]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/nobody"),
        ("GET", "/v2/models/Dense"),
        ("GET", "/v2/models/dense/versions/2"),
        ("GET", "/v2/models/nobody/config"),
        ("GET", "/v2/models/nobody/stats"),
        ("GET", "/v3"),
        ("POST", "/v2"),
        ("POST", "/v2/models/nobody/infer"),
        ("POST", "/v2/models/dense/infer"),
        ("POST", "/v2/repository/models/dense/unload"),
    ],
)
def test_a_failed_request_is_an_http_error_status_and_its_body_has_an_error_that_is_a_string(
    server: Server, method: str, path: str
) -> None:
    reply = ask(server, method, path)
    assert 400 <= reply.status < 600
    assert reply.headers["content-type"] == "application/json"
    assert isinstance(reply.json()["error"], str)
    assert reply.json()["error"]


def test_all_strings_are_case_sensitive(server: Server) -> None:
    assert infer(server, "Two", A, B).status == 404
    assert infer(server, "two", tensor("A", [1, 2]), B).status == 400
    assert infer(server, "two", tensor("a", [1, 2], "fp32"), B).status == 400


# ---------------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("path", ["/v2/models/two/infer", "/v2/models/two/versions/1/infer"])
def test_the_version_is_optional_and_is_returned(server: Server, path: str) -> None:
    content = ask(server, "POST", path, {"inputs": [A, B]}).json()
    assert (content["model_name"], content["model_version"]) == ("two", "1")


def test_an_id_is_returned_if_it_was_specified(server: Server) -> None:
    assert infer(server, "two", A, B, id="a b/ü").json()["id"] == "a b/ü"
    assert infer(server, "two", A, B).json()["id"], "the server chooses an id"


def test_the_inputs_may_come_in_any_order(server: Server) -> None:
    content = outputs(infer(server, "two", B, A).json())
    assert content["difference"]["data"] == DIFFERENCE


def test_if_outputs_are_not_specified_all_outputs_are_returned(server: Server) -> None:
    content = outputs(infer(server, "two", A, B).json())
    assert {name: output["data"] for name, output in content.items()} == {"sum": SUM, "difference": DIFFERENCE}


def test_only_the_outputs_that_are_requested_are_returned(server: Server) -> None:
    content = infer(server, "two", A, B, outputs=[{"name": "difference"}]).json()
    assert list(outputs(content)) == ["difference"]


def test_an_output_has_name_shape_datatype_and_data(server: Server) -> None:
    (output,) = infer(server, "two", A, B, outputs=[{"name": "sum"}]).json()["outputs"]
    assert output == {"name": "sum", "datatype": "FP32", "shape": [1, 2], "data": SUM}


def test_tensor_data_is_in_row_major_order_flat_or_nested_as_its_shape(server: Server) -> None:
    flat = tensor("x", [1, 2, 3, 4, 5, 6], shape=[2, 3])
    nested = tensor("x", [[1, 2, 3], [4, 5, 6]], shape=[2, 3])
    answers = [infer(server, "FP32", form).json()["outputs"][0] for form in (flat, nested)]
    assert answers[0] == answers[1] == {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}


@pytest.mark.parametrize(
    "wrong",
    [
        [A],
        [A, B, tensor("c", [1, 2])],
        [A, A],
        [A, tensor("b", [1, 2, 3])],
        [A, tensor("b", [1, 2, 3], shape=[1, 2])],
        [A, tensor("b", [[1], [2]], shape=[1, 2])],
        [A, tensor("b", [1, 2], "INT32")],
        [A, tensor("b", ["1", "2"])],
        [A, {"name": "b", "datatype": "FP32", "shape": [1, 2]}],
        [A, {"name": "b", "shape": [1, 2], "data": [1, 2]}],
        [A, {"name": "b", "datatype": "FP32", "data": [1, 2]}],
        [A, {"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
    ],
    ids=[
        "missing",
        "unknown",
        "twice",
        "another shape",
        "too much data",
        "nested differently",
        "another datatype",
        "strings",
        "no data",
        "no datatype",
        "no shape",
        "no name",
    ],
)
def test_the_inputs_must_be_those_of_the_model_each_with_name_shape_datatype_and_data(
    server: Server, wrong: list[Any]
) -> None:
    reply = infer(server, "two", *wrong)
    assert (reply.status, reply.json()["status_name"]) == (400, "INVALID_REQUEST")


JSON: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 65535],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 1, 2**64 - 1],
    "INT8": [-128, 0, 127],
    "INT16": [-(2**15), 0, 1],
    "INT32": [-(2**31), 0, 1],
    "INT64": [-(2**63), 0, 1],
    "FP32": [0.5, -1, 2.0**100],
    "FP64": [0.1, -1, 1e300],
    "BYTES": ["", "a", "é"],
}


@pytest.mark.parametrize("datatype", JSON)
def test_each_element_is_a_json_number_string_or_boolean_as_its_datatype_is(server: Server, datatype: str) -> None:
    (output,) = infer(server, datatype, tensor("x", JSON[datatype], datatype)).json()["outputs"]
    assert output == {"name": "y", "datatype": datatype, "shape": [1, 3], "data": JSON[datatype]}


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_representation_in_json(server: Server, datatype: str) -> None:
    assert "send it as binary data" in infer(server, datatype, tensor("x", [1, 2, 3], datatype)).json()["error"]
    reply = infer(server, datatype, binary("x", 6, datatype, [1, 3]), behind=ECHOES[datatype][1])
    assert reply.status == 400
    assert "request binary_data" in reply.json()["error"]


# ---------------------------------------------------------------------------------- binary tensor data extension


@pytest.mark.parametrize("datatype", ECHOES)
def test_binary_elements_are_little_endian_row_major_without_padding(server: Server, datatype: str) -> None:
    sent = ECHOES[datatype][1]
    reply = infer(
        server,
        datatype,
        binary("x", len(sent), datatype, [1, 3]),
        behind=sent,
        outputs=[{"name": "y", "parameters": {"binary_data": True}}],
    )
    content, behind = reply.parts()
    assert content["outputs"] == [
        {"name": "y", "datatype": datatype, "shape": [1, 3], "parameters": {"binary_data_size": len(sent)}}
    ]
    assert behind == sent
    assert reply.headers["content-type"] == "application/octet-stream"
    assert int(reply.headers["content-length"]) == len(reply.body)


def test_the_binary_data_follows_the_json_in_the_order_of_the_inputs(server: Server) -> None:
    reply = infer(server, "two", binary("b", 8), binary("a", 8), behind=PACKED[1] + PACKED[0])
    assert outputs(reply.json())["difference"]["data"] == DIFFERENCE


def test_some_inputs_may_be_binary_and_others_json(server: Server) -> None:
    reply = infer(server, "two", A, binary("b", 8), behind=PACKED[1])
    assert outputs(reply.json())["difference"]["data"] == DIFFERENCE


def test_binary_data_is_false_by_default(server: Server) -> None:
    reply = infer(server, "two", binary("a", 8), binary("b", 8), behind=b"".join(PACKED))
    assert "inference-header-content-length" not in reply.headers
    assert reply.headers["content-type"] == "application/json"
    assert outputs(reply.json())["sum"]["data"] == SUM


def test_binary_data_output_makes_all_outputs_binary(server: Server) -> None:
    content, behind = infer(server, "two", A, B, parameters={"binary_data_output": True}).parts()
    sizes = [output["parameters"]["binary_data_size"] for output in content["outputs"]]
    assert sizes == [8, 8]
    assert behind == struct.pack("<4f", *SUM, *DIFFERENCE)


def test_binary_data_of_an_output_overrides_binary_data_output(server: Server) -> None:
    wanted = [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "difference"}]
    content, behind = infer(server, "two", A, B, outputs=wanted, parameters={"binary_data_output": True}).parts()
    assert outputs(content)["sum"]["data"] == SUM
    assert behind == struct.pack("<2f", *DIFFERENCE)


def test_some_outputs_may_be_binary_and_others_json(server: Server) -> None:
    wanted = [{"name": "sum"}, {"name": "difference", "parameters": {"binary_data": True}}]
    content, behind = infer(server, "two", A, B, outputs=wanted).parts()
    assert outputs(content)["sum"]["data"] == SUM
    assert behind == struct.pack("<2f", *DIFFERENCE)


@pytest.mark.parametrize(
    ("sizes", "behind"),
    [((8, 8), bytes(15)), ((8, 8), bytes(17)), ((4, 12), bytes(16)), ((-1, 8), bytes(8)), ((8, 2**63), bytes(16))],
)
def test_binary_data_size_must_match_the_body_and_the_shape(
    server: Server, sizes: tuple[int, int], behind: bytes
) -> None:
    reply = infer(server, "two", binary("a", sizes[0]), binary("b", sizes[1]), behind=behind)
    assert (reply.status, reply.json()["status_name"]) == (400, "INVALID_REQUEST")


def test_a_binary_input_must_not_have_data(server: Server) -> None:
    reply = infer(server, "two", {**A, **binary("a", 8)}, B, behind=PACKED[0])
    assert reply.status == 400
    assert "send one" in reply.json()["error"]


@pytest.mark.parametrize("length", ["", "-1", "0", "99999", "x", "1e2"])
def test_inference_header_content_length_must_be_that_of_the_json(server: Server, length: str) -> None:
    body = b'{"inputs": []}'
    reply = ask(server, "POST", "/v2/models/two/infer", body, Inference_Header_Content_Length=length)
    assert reply.status == 400


# ---------------------------------------------------------------------------------- classification extension


def classes(server: Server, count: Any, shape: Any = (2, 3), **parameters: Any) -> Any:
    data = [1, 7, 3, 9, 8, -2][: shape[0] * shape[1]]
    wanted = [{"name": "y", "parameters": {"classification": count, **parameters}}]
    return infer(server, "FP32", tensor("x", data, shape=shape), outputs=wanted)


def test_a_classification_is_the_top_k_of_each_row_as_bytes_value_and_index_largest_first(server: Server) -> None:
    (output,) = classes(server, 2).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["7.000000:1", "3.000000:2", "9.000000:0", "8.000000:1"]


def test_no_more_classes_are_returned_than_there_are(server: Server) -> None:
    (output,) = classes(server, 100, [1, 3]).json()["outputs"]
    assert output["data"] == ["7.000000:1", "3.000000:2", "1.000000:0"]


def test_a_classification_may_be_binary(server: Server) -> None:
    content, behind = classes(server, 1, [1, 3], binary_data=True).parts()
    assert content["outputs"][0]["datatype"] == "BYTES"
    assert behind == b"\x0a\x00\x00\x007.000000:1"


@pytest.mark.parametrize("count", [0, -1, "two", 1.5])
def test_classification_must_be_a_positive_number(server: Server, count: Any) -> None:
    assert classes(server, count).status == 400


# ---------------------------------------------------------------------------------- other extensions


def test_statistics_are_cumulative_and_count_successes_and_failures(server: Server) -> None:
    def counts() -> tuple[int, int, int]:
        (model,) = ask(server, "GET", "/v2/models/two/stats").json()["model_stats"]
        inference = model["inference_stats"]
        return model["inference_count"], inference["success"]["count"], inference["fail"]["count"]

    before = counts()
    infer(server, "two", A, B)
    infer(server, "two", A, B, parameters={"timeout": 1})
    assert counts() == (before[0] + 1, before[1] + 1, before[2] + 1)


@pytest.mark.parametrize("path", ["/v2/models/stats", "/v2/models/two/stats", "/v2/models/two/versions/1/stats"])
def test_statistics_have_a_count_and_nanoseconds_of_each_step(server: Server, path: str) -> None:
    content = {model["name"]: model for model in ask(server, "GET", path).json()["model_stats"]}
    assert set(content) == ({"two"} if "two" in path else {"dense", "two", *ECHOES})
    steps = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output"}
    assert steps <= set(content["two"]["inference_stats"])
    assert all(set(content["two"]["inference_stats"][step]) == {"count", "ns"} for step in steps)
    assert content["two"]["version"] == "1"


def test_the_repository_index_has_every_model_with_name_version_state_and_reason(server: Server) -> None:
    for body in (None, {}, {"ready": True}):
        content = ask(server, "POST", "/v2/repository/index", body).json()
        assert sorted(entry["name"] for entry in content) == sorted(["dense", "two", *ECHOES])
        assert content[0] == {"name": content[0]["name"], "version": "1", "state": "READY", "reason": ""}


@pytest.mark.parametrize(("action", "status"), [("load", 400), ("unload", 400)])
def test_a_failed_load_or_unload_has_an_error_status_and_an_error(server: Server, action: str, status: int) -> None:
    reply = ask(server, "POST", f"/v2/repository/models/dense/{action}")
    assert reply.status == status
    assert isinstance(reply.json()["error"], str)


@pytest.mark.parametrize("path", MODEL_PATHS)
def test_a_model_has_a_configuration_whose_dims_are_without_the_batch(server: Server, path: str) -> None:
    content = ask(server, "GET", f"{path}/config").json()
    assert (content["name"], content["max_batch_size"]) == ("dense", 2)
    (read,) = content["input"]
    assert (read["name"], read["data_type"], read["dims"]) == ("x", "TYPE_FP32", [32])


@pytest.mark.parametrize("priority", [0, 1, 2**64 - 1])
def test_a_priority_is_an_unsigned_integer(server: Server, priority: int) -> None:
    assert infer(server, "two", A, B, parameters={"priority": priority}).status == 200


@pytest.mark.parametrize("priority", [-1, 2**64, 1.5, "1", True])
def test_another_priority_is_refused(server: Server, priority: Any) -> None:
    reply = infer(server, "two", A, B, parameters={"priority": priority})
    assert reply.status == 400
    assert "priority is" in reply.json()["error"]


def test_a_timeout_is_in_microseconds_and_0_means_none(server: Server) -> None:
    assert infer(server, "two", A, B, parameters={"timeout": 20_000_000}).status == 200
    assert infer(server, "two", A, B, parameters={"timeout": 0}).status == 200
    assert infer(server, "two", A, B, parameters={"timeout": 1}).status in (503, 504)


def test_unknown_parameters_are_ignored(server: Server) -> None:
    assert infer(server, "two", A, B, parameters={"my_own": {"deep": [1]}}, more=1).status == 200
