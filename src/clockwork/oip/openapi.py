"""What is served over HTTP, as an OpenAPI 3.1 document.

Rules of the file: bodies of requests are described by the types that they are decoded into; what a reply may look like
is written here, and held against a live server by tests/http/test_openapi.py. Each path of `rest` is here.
"""

from typing import Any, Final, TypeAlias

import msgspec

from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype
from clockwork.oip.binary import DEFAULT_MAX_JSON, InferHead
from clockwork.oip.contract import http_statuses
from clockwork.oip.metadata import VERSION
from clockwork.oip.rest import RepositoryHead
from clockwork.units import MIB

Json: TypeAlias = dict[str, Any]

PATH: Final = "/v2/openapi.json"
"""Where the document is served."""

_TEXT: Final[Json] = {"type": "string"}
_FLAG: Final[Json] = {"type": "boolean"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_MS: Final[Json] = {"type": "number", "minimum": 0, "description": "milliseconds"}
_DATATYPE: Final[Json] = {"enum": [str(it) for it in Datatype]}
_DIMS: Final[Json] = {"type": "array", "items": {"type": "integer", "minimum": -1}}

_INFER: Final = "application/octet-stream"
_HEADER: Final = "Inference-Header-Content-Length"


def document(version: str) -> Json:
    """The document of a server of this version."""
    _, schemas = msgspec.json.schema_components((InferHead, RepositoryHead), ref_template=_ref("{name}")["$ref"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Clockwork", "version": version, "summary": _SUMMARY, "description": _DESCRIPTION},
        "paths": _guarded(_server() | _models() | _repository() | _unsupported()),
        "security": [{}, {"token": []}],
        "components": {
            "schemas": {**schemas, **_replies()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_SUMMARY: Final = "The Open Inference Protocol v2, with Triton's extensions."
_DESCRIPTION: Final = (
    "A HEAD, PUT or another method that a path does not have is answered 405 with Allow, a path that is not here 404, "
    "a head that is too large 431, what is no HTTP/1.1 400, what comes over more connections than are accepted 503. "
    "Bodies of all errors are alike. A server that wants tokens wants one for all but health."
)


def _guarded(paths: Json) -> Json:
    """The paths, of which all but health may want a token."""
    for path, item in paths.items():
        for method, operation in item.items():
            if method != "parameters" and not path.startswith("/v2/health/"):
                operation["responses"] |= {str(status): _json(_FAILURES[status], "Error") for status in (401, 403)}
    return paths


def _server() -> Json:
    ready = _json("whether it serves", "Ready")
    return {
        "/v2/health/live": {"get": _operation("serverLive", "Whether the server answers", _json("it does", "Live"))},
        "/v2/health/ready": {
            "get": {
                "operationId": "serverReady",
                "summary": "Whether start-up is over and a worker answers",
                "responses": {"200": ready, "503": ready},
            }
        },
        "/v2": {"get": _operation("serverMetadata", "Name, version and extensions", _json("the server", "Server"))},
        PATH: {
            "get": {
                "operationId": "openapi",
                "summary": "This document",
                "responses": {"200": _content("the document", {"type": "object"})},
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Metrics in Prometheus' text format",
                "responses": {
                    "200": {"description": "the metrics", "content": {"text/plain": {"schema": _TEXT}}},
                    "404": _json("the server was started with --no-metrics", "Error"),
                },
            }
        },
        "/v2/models/stats": {
            "get": _operation("statistics", "Statistics of all models", _json("of each", "Statistics"), 503, 500)
        },
    }


def _models() -> Json:
    made: Json = {}
    for base, suffix in (("/v2/models/{model}", ""), ("/v2/models/{model}/versions/{version}", "OfVersion")):
        asked = (
            ("", "modelMetadata", "Inputs and outputs of a model", "Model"),
            ("/ready", "modelReady", "Whether a device can serve a model now", "ModelReady"),
            ("/config", "modelConfig", "A model as Triton would configure it", "Config"),
            ("/stats", "modelStatistics", "Statistics of a model", "Statistics"),
        )
        for path, name, summary, schema in asked:
            reply = _operation(name + suffix, summary, _json("the answer", schema), 404, 500, 503)
            made[base + path] = {"parameters": _parameters(base), "get": reply}
        made[f"{base}/infer"] = {"parameters": _parameters(base), "post": _infer(suffix)}
    return made


def _infer(suffix: str) -> Json:
    answer = _json("the outputs", "InferAnswer")
    answer["content"][_INFER] = {}
    answer["headers"] = {_HEADER: {"schema": _COUNT, "description": "of an answer with binary outputs: bytes of JSON"}}
    made = _operation(f"infer{suffix}", "Infer", answer, *sorted(http_statuses() | {408, 413, 415}))
    made["parameters"] = [
        {
            "name": _HEADER,
            "in": "header",
            "schema": _COUNT,
            "description": f"bytes of JSON, at most {DEFAULT_MAX_JSON // MIB} MiB by default; binary tensors follow it",
        }
    ]
    made["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("InferHead")},
            _INFER: {"schema": {"description": "InferHead in JSON, and behind it the inputs that are binary"}},
        },
    }
    return made


def _repository() -> Json:
    asked = (
        ("/v2/repository/index", "index", "All models and their state", "Index"),
        ("/v2/repository/models/{model}/load", "load", "Load a model while the server starts up", "Empty"),
        ("/v2/repository/models/{model}/unload", "unload", "Refused: models stay", "Empty"),
    )
    made: Json = {}
    for path, name, summary, schema in asked:
        statuses = (400, 404, 408, 413, 415, 500, 503)
        operation = _operation(name, summary, _json("done", schema), *statuses)
        operation["requestBody"] = {"content": {"application/json": {"schema": _ref("RepositoryHead")}}}
        if name == "unload":
            del operation["responses"]["200"]
        made[path] = {"parameters": _parameters(path), "post": operation}
    return made


def _unsupported() -> Json:
    families = [f"/v2/{kind}sharedmemory{region}" for kind in ("system", "cuda") for region in ("", "/region/{region}")]
    both = ("/v2/logging", "/v2/trace/setting", "/v2/models/{model}/trace/setting")
    paths: dict[str, tuple[str, ...]] = dict.fromkeys(both, ("get", "post"))
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        paths |= {f"{base}/{action}": ("post",) for action in ("generate", "generate_stream")}
    for family in families:
        paths |= {f"{family}/status": ("get",), f"{family}/unregister": ("post",)}
        if "region" in family:
            paths[f"{family}/register"] = ("post",)
    made: Json = {}
    for path, methods in paths.items():
        made[path] = {"parameters": _parameters(path)}
        for method in methods:
            name = method + "".join(part.strip("{}").title() for part in path.split("/")[2:])
            made[path][method] = {
                "operationId": name,
                "summary": "Not supported",
                "responses": {"501": _json("Triton's, and not supported", "Error")},
            }
    return made


def _operation(name: str, summary: str, reply: Json, *failures: int) -> Json:
    responses = {"200": reply}
    for status in failures:
        responses[str(status)] = _json(_FAILURES[status], "Error")
        if status == 503:
            responses["503"]["headers"] = {"Retry-After": {"schema": _TEXT, "description": "seconds, if it is known"}}
    return {"operationId": name, "summary": summary, "responses": responses}


_FAILURES: Final = {
    400: "the request is wrong",
    401: "a token is needed",
    403: "another token is needed",
    404: "no such model, or version of it",
    408: "the body came too slowly",
    413: "the body is too large, as sent or unpacked",
    415: "the body's coding is not known",
    499: "nobody waits for the answer",
    500: "the server failed; its log says why",
    503: "it would be late, the server is full, starts up or shuts down",
    504: "the deadline has passed",
}


def _parameters(path: str) -> list[Json]:
    """Of the path; a model's version is the one that there is."""
    name = _TEXT | {"pattern": "^[^/]+$"}
    of = {"model": name, "version": {"const": VERSION}, "region": name}
    asked = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return [{"name": it, "in": "path", "required": True, "schema": of[it]} for it in asked]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: str) -> Json:
    return _content(description, _ref(schema))


def _content(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: Json, *optional: str) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _replies() -> Json:
    tensor = _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _DIMS})
    config_tensor = _object({"name": _TEXT, "data_type": _TEXT | {"pattern": "^TYPE_"}, "dims": _DIMS})
    entry = {
        "name": _TEXT,
        "version": {"const": VERSION},
        "state": {"enum": ["READY", "UNAVAILABLE", "LOADING"]},
        "reason": _TEXT,
    }
    return {
        "Error": _error(),
        "Live": _object({"live": {"const": True}}),
        "Ready": _object({"ready": _FLAG}),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
        "Model": _object(
            {
                "name": _TEXT,
                "versions": _list({"const": VERSION}),
                "platform": _TEXT,
                "inputs": _list(tensor),
                "outputs": _list(tensor),
            }
        ),
        "ModelReady": _object({"name": _TEXT, "ready": {"const": True}}),
        "Config": _object(
            {
                "name": _TEXT,
                "platform": _TEXT,
                "backend": _TEXT,
                "max_batch_size": _COUNT,
                "input": _list(config_tensor),
                "output": _list(config_tensor),
                "version_policy": {"type": "object"},
            }
        ),
        "Statistics": _statistics(),
        "Index": _list(_object(entry)),
        "Empty": {"type": "object", "maxProperties": 0},
        "InferAnswer": _answer(),
    }


def _error() -> Json:
    numbers = [int(it) for it in Status if it != Status.SUCCESS]
    return _object(
        {
            "error": _TEXT | {"description": "for people"},
            "status": {"enum": numbers},
            "status_name": {"enum": [Status(it).name for it in numbers]},
            "predicted_ms": _MS | {"description": "when it would have been done: milliseconds after its arrival"},
            "retry_after_ms": _MS | {"description": "when asking again makes sense: milliseconds from now"},
        },
        "predicted_ms",
        "retry_after_ms",
    )


def _statistics() -> Json:
    duration = _object({"count": _COUNT, "ns": _COUNT})
    names = (
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    )
    model = {
        "name": _TEXT,
        "version": {"const": VERSION},
        "last_inference": _COUNT | {"description": "milliseconds since 1970; 0: none yet"},
        "inference_count": _COUNT,
        "execution_count": _COUNT,
        "inference_stats": _object(dict.fromkeys(names, duration)),
        "batch_stats": _list({"type": "object"}),
    }
    return _object({"model_stats": _list(_object(model))})


def _answer() -> Json:
    parameters = _object(
        {
            "predicted_ms": _MS | {"description": "when the answer was promised for: milliseconds after arrival"},
            "queue_ms": _MS,
            "load_ms": _MS | {"description": "milliseconds of queue_ms in which weights were loaded"},
            "exec_ms": _MS,
            "total_ms": _MS,
            "batch_size": _COUNT,
            "cold_start": _FLAG,
        },
        "predicted_ms",
    )
    output = _object(
        {
            "name": _TEXT,
            "datatype": _DATATYPE,
            "shape": _DIMS,
            "data": {"type": "array"},
            "parameters": _object({"binary_data_size": _COUNT}),
        },
        "data",
        "parameters",
    )
    properties = {"model_name": _TEXT, "model_version": {"const": VERSION}, "id": _TEXT}
    return _object({**properties, "parameters": parameters, "outputs": _list(output)}, "id")
