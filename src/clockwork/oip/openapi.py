"""The OpenAPI 3.1 document of the HTTP front end. The document describes every path that `clockwork.oip.rest` defines.

The schemas of request bodies are generated from the types into which the bodies are decoded. The schemas of replies are
written in this module. tests/http/test_openapi.py compares them with the replies of a live server.
"""

from typing import Any, Final, TypeAlias

import msgspec

from clockwork.messages.explanation import BROKEN, DEFAULT_LISTED, MAX_LISTED, OUTCOMES
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype
from clockwork.oip.binary import DEFAULT_MAX_JSON, InferHead
from clockwork.oip.failures import http_statuses
from clockwork.oip.rest import RepositoryHead
from clockwork.units import MIB

Json: TypeAlias = dict[str, Any]

PATH: Final = "/v2/openapi.json"
"""Path at which the server serves the OpenAPI document."""

_TEXT: Final[Json] = {"type": "string"}
_VERSION: Final[Json] = {"type": "string", "pattern": "^[0-9]+$", "example": "1"}
_BYTES: Final[Json] = {"type": "string", "format": "binary"}
_FLAG: Final[Json] = {"type": "boolean"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_MS: Final[Json] = {"type": "number", "minimum": 0, "description": "milliseconds"}
_DATATYPE: Final[Json] = {"enum": [str(datatype) for datatype in Datatype]}
_DIMS: Final[Json] = {"type": "array", "items": {"type": "integer", "minimum": -1}}

_INFER: Final = "application/octet-stream"
_HEADER: Final = "Inference-Header-Content-Length"


_METRICS_TYPES: Final = ("text/plain", "application/openmetrics-text")


def document(version: str) -> Json:
    """Return the OpenAPI document. ``version`` is the version of the server."""
    _, schemas = msgspec.json.schema_components((InferHead, RepositoryHead), ref_template=_ref("{name}")["$ref"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Clockwork", "version": version, "summary": _SUMMARY, "description": _DESCRIPTION},
        "paths": _guarded(_server() | _models() | _repository() | _recent() | _unsupported()),
        "security": [{}, {"token": []}],
        "components": {
            "schemas": {**schemas, **_replies()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_SUMMARY: Final = "The Open Inference Protocol v2, with Triton's extensions."
_DESCRIPTION: Final = (
    "Every path may also reply with these errors: 405 with the header Allow for a method that the path does not have, "
    "431 for a head that is too large, 400 for bytes that are not HTTP/1.1, and 503 when the connection limit is "
    "reached. An unknown path gets 404. All errors have the same kind of body. If the server has tokens, all paths but "
    "health need one."
)


def _guarded(paths: Json) -> Json:
    """Add the replies 401 and 403, which are about tokens, to all paths except the health checks."""
    for path, item in paths.items():
        for method, operation in item.items():
            if method != "parameters" and not path.startswith("/v2/health/"):
                operation["responses"] |= {str(status): _json(_FAILURES[status], "Error") for status in (401, 403)}
    return paths


def _server() -> Json:
    ready = _json("whether the server can serve requests", "Ready")
    return {
        "/v2/health/live": {"get": _operation("serverLive", "Whether the server is alive", _json("yes", "Live"))},
        "/v2/health/ready": {
            "get": {
                "operationId": "serverReady",
                "summary": "Whether start-up is over and a worker is connected",
                "responses": {"200": ready, "503": ready},
            }
        },
        "/v2": {"get": _operation("serverMetadata", "Name, version and extensions", _json("the metadata", "Server"))},
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
                "summary": "Metrics in Prometheus' text format, or in OpenMetrics if the header Accept prefers that",
                "responses": {
                    "200": {
                        "description": "the metrics",
                        "content": {text: {"schema": _TEXT} for text in _METRICS_TYPES},
                    },
                    "404": _json("the server was started with --no-metrics", "Error"),
                },
            }
        },
        "/v2/clockwork/scaling": {
            "get": _operation(
                "scaling", "How many devices the server wants, and why", _json("the devices and the work", "Scaling")
            )
        },
        "/v2/models/stats": {
            "get": _operation("statistics", "Statistics of all models", _json("the statistics", "Statistics"), 503, 500)
        },
    }


def _models() -> Json:
    paths: Json = {}
    for base, suffix in (("/v2/models/{model}", ""), ("/v2/models/{model}/versions/{version}", "OfVersion")):
        operations = (
            ("", "modelMetadata", "Inputs and outputs of a model", "Model"),
            ("/ready", "modelReady", "Whether a device can serve a model now", "ModelReady"),
            ("/config", "modelConfig", "Configuration of a model in Triton's format", "Config"),
            ("/stats", "modelStatistics", "Statistics of a model", "Statistics"),
        )
        for path, name, summary, schema in operations:
            operation = _operation(name + suffix, summary, _json("the result", schema), 404, 500, 503)
            paths[base + path] = {"parameters": _parameters(base), "get": operation}
        paths[f"{base}/infer"] = {"parameters": _parameters(base), "post": _infer(suffix)}
    return paths


def _infer(suffix: str) -> Json:
    reply = _json("the outputs", "InferResponse")
    reply["content"][_INFER] = {
        "schema": _BYTES | {"description": "InferResponse in JSON, followed by the binary outputs"}
    }
    length = {"schema": _COUNT, "description": "bytes of JSON in a response with binary outputs"}
    reply["headers"] = {_HEADER: length}
    operation = _operation(f"infer{suffix}", "Execute a model", reply, *sorted(http_statuses() | {408, 413, 415}))
    operation["parameters"] = [
        {
            "name": _HEADER,
            "in": "header",
            "schema": _COUNT,
            "description": f"bytes of JSON, at most {DEFAULT_MAX_JSON // MIB} MiB by default; binary tensors follow it",
        }
    ]
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("InferHead")},
            _INFER: {"schema": _BYTES | {"description": "InferHead in JSON, followed by the binary inputs"}},
        },
    }
    return operation


def _repository() -> Json:
    operations = (
        ("/v2/repository/index", "index", "All models and their states", "the models", "Index"),
        ("/v2/repository/models/{model}/load", "load", "Load or replace a model", "the model is ready", "Empty"),
        ("/v2/repository/models/{model}/unload", "unload", "Unload a model", "the model is unloaded", "Empty"),
    )
    paths: Json = {}
    for path, name, summary, result, schema in operations:
        statuses = (400, 404, 408, 413, 415, 500, 503)
        operation = _operation(name, summary, _json(result, schema), *statuses)
        operation["requestBody"] = {"content": {"application/json": {"schema": _ref("RepositoryHead")}}}
        paths[path] = {"parameters": _parameters(path), "post": operation}
    return paths


def _recent() -> Json:
    listed = _operation(
        "recentRequests", "The last answered requests", _json("the requests", "RecentRequests"), 400, 500, 503
    )
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": DEFAULT_LISTED}
    queries = {"outcome": {"enum": list(OUTCOMES)}, "model": _TEXT, "limit": limit}
    listed["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in queries.items()]
    explained = _operation(
        "explanation", "Why a request had its outcome", _json("the explanation", "Explanation"), 404, 500, 503
    )
    base = "/v2/clockwork/requests"
    one = f"{base}/{{request}}"
    return {base: {"get": listed}, one: {"parameters": _parameters(one), "get": explained}}


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
    items: Json = {}
    for path, methods in paths.items():
        items[path] = {"parameters": _parameters(path)}
        for method in methods:
            name = method + "".join(part.strip("{}").title() for part in path.split("/")[2:])
            items[path][method] = {
                "operationId": name,
                "summary": "Not supported",
                "responses": {"501": _json("Triton has this extension; Clockwork does not support it", "Error")},
            }
    return items


def _operation(name: str, summary: str, reply: Json, *failures: int) -> Json:
    responses = {"200": reply}
    for status in failures:
        responses[str(status)] = _json(_FAILURES[status], "Error")
        if status == 503:
            responses["503"]["headers"] = {"Retry-After": {"schema": _TEXT, "description": "seconds, if known"}}
    return {"operationId": name, "summary": summary, "responses": responses}


_FAILURES: Final = {
    400: "the request is wrong",
    401: "a token is needed",
    403: "another token is needed",
    404: "the model or its version is unknown",
    408: "the body arrived too slowly",
    413: "the body is too large, as sent or unpacked",
    415: "the body's content coding is unknown",
    499: "the client has disconnected",
    500: "the server failed; see its log",
    503: "the response would be late, or the server is full, starting up or shutting down",
    504: "the deadline has passed",
}


def _parameters(path: str) -> list[Json]:
    """Return the descriptions of the parameters in a path. A version may be a number or a label."""
    name = _TEXT | {"pattern": "^[^/]+$"}
    schemas = {"model": name, "version": name | {"example": "1"}, "region": name, "request": name}
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": schemas[name]} for name in names]


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
    model_input = _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _DIMS, "optional": _FLAG}, "optional")
    config_tensor = {"name": _TEXT, "data_type": _TEXT | {"pattern": "^TYPE_"}, "dims": _DIMS}
    entry = {
        "name": _TEXT,
        "version": _VERSION,
        "state": {"enum": ["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]},
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
                "versions": _list(_VERSION),
                "platform": _TEXT,
                "inputs": _list(model_input),
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
                "input": _list(_object({**config_tensor, "format": _TEXT, "optional": _FLAG})),
                "output": _list(_object({**config_tensor, "label_filename": _TEXT})),
                "version_policy": {"type": "object"},
                "optimization": {"type": "object"},
                "instance_group": _list({"type": "object"}),
                "default_model_filename": _TEXT,
                "parameters": {"type": "object"},
            }
        ),
        "Scaling": _scaling(),
        "Statistics": _statistics(),
        "Index": _list(_object(entry, "version")),
        "RecentRequests": _object({"requests": _list(_request())}),
        "Explanation": _explanation(),
        "Empty": {"type": "object", "maxProperties": 0},
        "InferResponse": _infer_response(),
    }


def _request() -> Json:
    return _object(
        {
            "request_id": _TEXT,
            "model": _TEXT,
            "version": _TEXT,
            "outcome": {"enum": [outcome for outcome in OUTCOMES if outcome != BROKEN]},
            "reason": _TEXT | {"description": "reason of a refusal, as in clockwork_refusals_total"},
            "age_ms": _MS | {"description": "milliseconds since the response"},
            "slo_ms": _MS,
            "total_ms": _MS,
            "broken": _FLAG | {"description": "whether a promise was broken"},
            "message": _TEXT,
        }
    )


def _explanation() -> Json:
    described = _request()
    described["description"] = "times of events are in milliseconds after the request's arrival"
    lists = dict.fromkeys(("ahead", "steps", "compared"), _list({"type": "object"}))
    described["properties"] |= {"mates": _list(_TEXT), **lists}
    return described


def _error() -> Json:
    numbers = [int(status) for status in Status if status != Status.SUCCESS]
    return _object(
        {
            "error": _TEXT | {"description": "error message"},
            "status": {"enum": numbers},
            "status_name": {"enum": [Status(number).name for number in numbers]},
            "predicted_ms": _MS | {"description": "predicted completion: milliseconds after the request's arrival"},
            "retry_after_ms": _MS | {"description": "milliseconds after which to retry"},
            "id": _TEXT | {"description": "id of the inference request"},
        },
        "predicted_ms",
        "retry_after_ms",
        "id",
    )


def _scaling() -> Json:
    number = {"type": "number", "minimum": 0}
    kind = {
        "kind": _TEXT,
        "devices": _COUNT,
        "wanted": _COUNT,
        "why": _TEXT,
        "needed": number | {"description": "devices that the last seconds need, without damping"},
        "execution": number | {"description": "work of the requests, in device-seconds per second"},
        "refused": number | {"description": "part of execution that was refused or late"},
        "loading": number | {"description": "work of loading weights, in device-seconds per second"},
        "target": number,
        "held_s": number | {"description": "seconds for which an earlier peak still counts"},
    }
    model = {
        "model": _TEXT,
        "kind": _TEXT,
        "rate": number | {"description": "rows per second"},
        "refused": number | {"description": "rows per second that were refused or late"},
        "row_ms": _MS,
        "work": number | {"description": "device-seconds per second"},
        "version": _VERSION,
    }
    return _object({"kinds": _list(_object(kind)), "models": _list(_object(model)), "other_models": _COUNT})


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
        "version": _VERSION,
        "last_inference": _COUNT | {"description": "milliseconds since 1970; 0: no inference yet"},
        "inference_count": _COUNT,
        "execution_count": _COUNT,
        "inference_stats": _object(dict.fromkeys(names, duration)),
        "batch_stats": _list({"type": "object"}),
        "response_stats": {"type": "object", "description": "always empty: each request gets one response"},
        "memory_usage": _list({"type": "object"}),
    }
    return _object({"model_stats": _list(_object(model))})


def _infer_response() -> Json:
    parameters = _object(
        {
            "predicted_ms": _MS | {"description": "predicted completion: milliseconds after the request's arrival"},
            "queue_ms": _MS,
            "load_ms": _MS | {"description": "the part of queue_ms in which weights were loaded, in milliseconds"},
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
            "data": _list({}) | {"description": "elements in row-major order"},
            "parameters": _object({"binary_data_size": _COUNT}),
        },
        "data",
        "parameters",
    )
    properties = {"model_name": _TEXT, "model_version": _VERSION, "id": _TEXT}
    return _object({**properties, "parameters": parameters, "outputs": _list(output)}, "id")
