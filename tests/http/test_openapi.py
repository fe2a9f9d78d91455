"""The OpenAPI document is true: a client made from it drives a real server, and every reply is as it says."""

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
from clockwork.oip.rest import MODEL, REPOSITORY, SERVER

DOCUMENT = json.loads(msgspec.json.encode(document(__version__)))
RIGHT = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [0.5] * 32}]}
EXAMPLES = 100

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


def aimed() -> dict[str, Any]:
    """The document, such that what is made from it hits: a model that there is, a request that is right."""
    made: dict[str, Any] = copy.deepcopy(DOCUMENT)
    for path in made["paths"].values():
        for parameter in path.get("parameters", ()):
            if parameter["name"] == "model":
                parameter["schema"] = {"enum": ["dense", "nobody", "ä b?#%"]}
        if "requestBody" in path.get("post", {}) and "infer" in path["post"]["operationId"]:
            body = path["post"]["requestBody"]["content"]["application/json"]
            body["schema"] = {"anyOf": [body["schema"], {"const": RIGHT}]}
    return made


OPERATIONS = {
    f"{it.method.upper()} {it.path}": it
    for it in (result.ok() for result in schemathesis.openapi.from_dict(aimed()).get_all_operations())  # type: ignore[union-attr]
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model: Path = save_dense(tmp_path_factory.mktemp("models") / "dense.onnx")
    with serve(str(model), "--http=127.0.0.1:0") as process:
        found = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        process.address()
        yield f"http://{found}"


def test_the_document_is_served(url: str) -> None:
    assert requests.get(url + PATH, timeout=30).json() == DOCUMENT


def test_every_path_that_is_routed_is_in_the_document_and_no_other() -> None:
    def served(table: dict[str, tuple[str, str]], base: str) -> set[str]:
        return {f"{method} {base}{'/' if rest else ''}{rest}" for rest, (method, _) in table.items()}

    routed = served(SERVER, "").union(
        *(served(MODEL, f"/v2/models/{{model}}{version}") for version in ("", "/versions/{version}")),
        served(REPOSITORY, "/v2/repository/models/{model}"),
    )
    described = {
        f"{method.upper()} {path}"
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if method != "parameters" and "501" not in operation["responses"]
    }
    assert described == routed


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(set(names)) == len(names)


def statuses(url: str, operation: str, mode: GenerationMode) -> set[int]:
    """What the operation answered, each time as the document says."""
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


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_reply_is_as_the_document_says(url: str, operation: str) -> None:
    seen = statuses(url, operation, GenerationMode.POSITIVE)
    first = min({*map(int, OPERATIONS[operation].definition.raw["responses"])} - {401, 403})
    assert first in seen or operation.endswith("/load")  # which start-up only does


@pytest.mark.parametrize("operation", [it for it in OPERATIONS if it.endswith(("infer", "index", "load"))])
def test_what_the_document_does_not_allow_is_answered_as_it_says(url: str, operation: str) -> None:
    seen = statuses(url, operation, GenerationMode.NEGATIVE)
    assert 400 in seen
