"""Both front ends have the same features: the table in docs/protocols.md, asked with Triton's clients over each."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

from oip.conformance import Server

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}

Probe = Callable[[Any, Any], Any]


def inputs(library: Any, **parameters: Any) -> list[Any]:
    found = []
    for name, values in (("a", [1, 2]), ("b", [10, 30])):
        tensor = library.InferInput(name, [1, 2], "FP32")
        tensor.set_data_from_numpy(np.array([values], np.float32))
        found.append(tensor)
    return found


def infer(client: Any, library: Any, *outputs: Any, **options: Any) -> Any:
    return client.infer("two", inputs(library), outputs=list(outputs) or None, **options)


def values(client: Any, library: Any, *outputs: Any, **options: Any) -> list[Any]:
    result = infer(client, library, *outputs, **options)
    found = (result.as_numpy(name) for name in ("sum", "difference"))
    return [None if array is None else array.tolist() for array in found]


def document(answer: Any) -> Any:
    """Return a JSON document, or a message as one."""
    if isinstance(answer, dict | list):
        return numbers(answer)
    found = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return numbers(found)


def numbers(content: Any) -> Any:
    """Return a document with numbers for texts of digits: protobuf writes 64-bit integers as texts."""
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items() if key != "version"}
    if isinstance(content, list):
        return [numbers(value) for value in content]
    return int(content) if isinstance(content, str) and content.lstrip("-").isdigit() else content


def parameters_of(client: Any, library: Any) -> set[str]:
    response = infer(client, library).get_response()
    found = set(response["parameters"] if isinstance(response, dict) else response.parameters)
    return {name for name in found if not name.endswith("_us")}  # gRPC repeats times as integers


def request_id(client: Any, library: Any) -> str:
    response = infer(client, library, request_id="seven").get_response()
    found: str = response["id"] if isinstance(response, dict) else response.id
    return found


def configuration(client: Any, library: Any) -> Any:
    found = document(client.get_model_config("two"))
    return found.get("config", found)


def statistics(client: Any, library: Any) -> set[str]:
    (model,) = document(client.get_inference_statistics("two"))["model_stats"]
    return set(model["inference_stats"])


def index(client: Any, library: Any) -> list[Any]:
    found = document(client.get_model_repository_index())
    return sorted(entry["name"] for entry in (found if isinstance(found, list) else found["models"]))


def readiness(client: Any, library: Any) -> list[bool]:
    known = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("two")]
    return [*known, client.is_model_ready("two", "7"), client.is_model_ready("nobody")]


def log_settings(client: Any, library: Any) -> dict[str, Any]:
    found = client.get_log_settings()
    if isinstance(found, dict):
        return found
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in found.settings.items()}


FEATURES: dict[str, Probe] = {
    "inference": values,
    "chosen outputs": lambda client, library: values(client, library, library.InferRequestedOutput("sum")),
    "classification": lambda client, library: values(
        client, library, library.InferRequestedOutput("sum", class_count=1), library.InferRequestedOutput("difference")
    ),
    "request id": request_id,
    "parameters of a response": parameters_of,
    "deadline: `slo_ms`": lambda client, library: values(client, library, parameters={"slo_ms": 5000}),
    "deadline: `timeout`": lambda client, library: values(client, library, timeout=5_000_000),
    "`priority`, checked": lambda client, library: values(client, library, priority=1),
    "liveness and readiness": readiness,
    "metadata of a model": lambda client, library: document(client.get_model_metadata("two")),
    "configuration of a model": configuration,
    "statistics": statistics,
    "repository index": index,
    "log settings": log_settings,
}

REFUSED: dict[str, Probe] = {
    "a version that does not exist": lambda client, library: values(client, library, model_version="7"),
    "a class count of 0": lambda client, library: values(
        client, library, library.InferRequestedOutput("sum", class_count=-1)
    ),
    "`slo_ms` of 0": lambda client, library: values(client, library, parameters={"slo_ms": 0}),
    "a sequence": lambda client, library: values(client, library, sequence_id=7, sequence_start=True),
    "unload": lambda client, library: client.unload_model("two"),
    "trace settings": lambda client, library: client.get_trace_settings(),
    "system shared memory": lambda client, library: client.get_system_shared_memory_status(),
}


def asked(server: Server, protocol: str, probe: Probe) -> Any:
    library = CLIENTS[protocol]
    with library.InferenceServerClient(getattr(server, protocol)) as client:
        try:
            return probe(client, library)
        except InferenceServerException as error:
            return error.message()


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_is_the_same_over_http_and_grpc(server: Server, feature: str) -> None:
    over_http = asked(server, "http", FEATURES[feature])
    assert not isinstance(over_http, str) or feature == "request id", over_http
    assert over_http == asked(server, "grpc", FEATURES[feature])


@pytest.mark.parametrize("request_", REFUSED)
def test_a_refusal_is_the_same_over_http_and_grpc(server: Server, request_: str) -> None:
    over_http = asked(server, "http", REFUSED[request_])
    assert isinstance(over_http, str), over_http
    assert over_http == asked(server, "grpc", REFUSED[request_])


def test_the_table_of_features_lists_all_that_both_have() -> None:
    section = PAGE.read_text().split("## Features of HTTP and gRPC", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    assert [name for name, http, grpc in rows if http == grpc == "yes"] == list(FEATURES)
