"""The OpenAPI document matches a real server: a client generated from it sends requests and checks every reply."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cli.processes import save_dense, serve
from clockwork import __version__
from clockwork.oip.openapi import PATH, document
from clockwork.oip.rest import ASSET, EXPLANATION, LOGGING, MODEL, REPOSITORY, SERVER

DOCUMENT = json.loads(msgspec.json.encode(document(__version__)))
RIGHT = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [0.5] * 32}]}
EXAMPLES = 100

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


def aimed() -> dict[str, Any]:
    """Return the document, changed so that generated requests may have an existing model and a correct body."""
    changed: dict[str, Any] = copy.deepcopy(DOCUMENT)
    for path in changed["paths"].values():
        for parameter in path.get("parameters", ()):
            if parameter["name"] == "file":
                parameter["schema"] = {"enum": ["main.js", "nothing.js"]}
            if parameter["name"] == "model":
                parameter["schema"] = {"enum": ["dense", "nobody", "ä b?#%"]}
        if "requestBody" in path.get("post", {}) and "infer" in path["post"]["operationId"]:
            body = path["post"]["requestBody"]["content"]["application/json"]
            body["schema"] = {"anyOf": [body["schema"], {"const": RIGHT}]}
    return changed


OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (result.ok() for result in schemathesis.openapi.from_dict(aimed()).get_all_operations())  # type: ignore[union-attr]
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model: Path = save_dense(tmp_path_factory.mktemp("models") / "dense.onnx")
    with serve(str(model), "--http=127.0.0.1:0") as process:
        found = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        process.address()
        yield f"http://{found}"


ENDLESS = "GET /v2/clockwork/events"  # a stream; tests/dashboard reads it


def test_the_document_is_served(url: str) -> None:
    assert requests.get(url + PATH, timeout=30).json() == DOCUMENT


def test_the_document_has_exactly_the_routed_paths() -> None:
    def served(table: dict[str, tuple[str, str]], base: str) -> set[str]:
        return {f"{method} {base}{'/' if rest or not base else ''}{rest}" for rest, (method, _) in table.items()}

    routed = served(SERVER, "").union(
        *(served(MODEL, f"/v2/models/{{model}}{version}") for version in ("", "/versions/{version}")),
        served(REPOSITORY, "/v2/repository/models/{model}"),
        served({"{request}": EXPLANATION}, "/v2/clockwork/requests"),
        *(served({"logging": found}, "/v2") for found in LOGGING.values()),
        served({"{file}": ASSET}, "/dashboard"),
    )
    described = {
        f"{method.upper()} {path}"
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if method != "parameters" and "501" not in operation["responses"]
    }
    assert described == routed


def test_operation_ids_are_unique() -> None:
    names = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(set(names)) == len(names)


def statuses(url: str, operation: str, mode: GenerationMode) -> set[int]:
    """Send generated requests, compare each reply with the document, and return the statuses."""
    seen = set()

    @given(case=OPERATIONS[operation].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def drive(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=url, timeout=30)
        seen.add(response.status_code)
        assert response.status_code < 500 or response.status_code in (501, 503, 504), response.text
        case.validate_response(response, checks=CHECKS)

    drive()
    return seen


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != ENDLESS])
def test_every_reply_matches_the_document(url: str, operation: str) -> None:
    seen = statuses(url, operation, GenerationMode.POSITIVE)
    first = min({*map(int, OPERATIONS[operation].definition.raw["responses"])} - {401, 403})
    # Loads are refused, and most generated versions and ids are unknown.
    assert first in seen or operation.endswith(("load", "{request}", "{version}/infer"))


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name.endswith(("infer", "index", "load"))])
def test_invalid_requests_get_the_errors_of_the_document(url: str, operation: str) -> None:
    seen = statuses(url, operation, GenerationMode.NEGATIVE)
    assert 400 in seen
