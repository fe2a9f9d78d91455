"""The OpenAPI 3.1 document of the HTTP front end. The document describes every path that `clockwork.oip.rest` defines.

The schemas of request bodies are generated from the types into which the bodies are decoded. The schemas of replies are
in `clockwork.oip.reply_schemas`.
"""

from typing import Final

import msgspec

from clockwork.messages.explanation import DEFAULT_LISTED, MAX_LISTED, OUTCOMES
from clockwork.messages.timeline import MAX_LIMIT, MAX_SPAN
from clockwork.oip.binary import DEFAULT_MAX_JSON, InferHead
from clockwork.oip.failures import http_statuses
from clockwork.oip.reply_schemas import BYTES, COUNT, TEXT, Json, log_settings, reply_schemas
from clockwork.oip.rest import MAX_DIGITS, RepositoryHead, TimelineQuery
from clockwork.units import MIB, MILLISECOND

PATH: Final = "/v2/openapi.json"
"""Path at which the server serves the OpenAPI document."""


_INFER: Final = "application/octet-stream"
_HEADER: Final = "Inference-Header-Content-Length"


_FILE_TYPES: Final = ("text/html", "text/css", "text/javascript", "image/svg+xml")
_METRICS_TYPES: Final = ("text/plain", "application/openmetrics-text")


def document(version: str) -> Json:
    """Return the OpenAPI document. ``version`` is the version of the server."""
    _, schemas = msgspec.json.schema_components((InferHead, RepositoryHead), ref_template=_ref("{name}")["$ref"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Clockwork", "version": version, "summary": _SUMMARY, "description": _DESCRIPTION},
        "paths": _guarded(
            _server()
            | _dashboard()
            | _models()
            | _repository()
            | _logging()
            | _recent()
            | _timeline_path()
            | _unsupported()
        ),
        "security": [{}, {"token": []}],
        "components": {
            "schemas": {**schemas, **reply_schemas()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_SUMMARY: Final = "The Open Inference Protocol v2, with Triton's extensions."
_DESCRIPTION: Final = (
    "Every path may also reply with these errors: 405 with the header Allow for a method that the path does not have, "
    "431 for a head that is too large, 400 for bytes that are not HTTP/1.1, and 503 when the connection limit is "
    "reached. An unknown path gets 404. All errors have the same kind of body. If the server has tokens, all paths but "
    "health and the files of the dashboard need one."
)


def _guarded(paths: Json) -> Json:
    """Add the replies 401 and 403, which are about tokens, to all paths except the health checks and the page."""
    for path, item in paths.items():
        for method, operation in item.items():
            if method != "parameters" and path != "/" and not path.startswith(("/v2/health/", "/dashboard/")):
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
                        "content": {text: {"schema": TEXT} for text in _METRICS_TYPES},
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


def _dashboard() -> Json:
    page = _content("the page", TEXT, "text/html")
    file: Json = {"description": "the file", "content": {kind: {"schema": TEXT} for kind in _FILE_TYPES}}
    unchanged = {"description": "the client has the file already (If-None-Match)"}
    stream = _content("a stream of server-sent events; the data of each event is JSON", TEXT, "text/event-stream")
    one = "/dashboard/{file}"
    off = "the server was started with --no-dashboard"
    return {
        "/": {
            "get": {
                "operationId": "dashboard",
                "summary": "A page that shows what the server does now",
                "responses": {"200": page, "304": unchanged, "404": _json(off, "Error")},
            }
        },
        one: {
            "parameters": _parameters(one),
            "get": {
                "operationId": "dashboardFile",
                "summary": "A file of the dashboard",
                "responses": {"200": file, "304": unchanged, "404": _json(f"the file is unknown, or {off}", "Error")},
            },
        },
        "/v2/clockwork/events": {
            "get": {
                "operationId": "events",
                "summary": "Snapshots of the server for the dashboard, at most 5 per second",
                "responses": {
                    "200": stream,
                    "404": _json(off, "Error"),
                    "503": _json("too many viewers", "Error")
                    | {"headers": {"Retry-After": {"schema": TEXT, "description": "seconds"}}},
                },
            }
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
        "schema": BYTES | {"description": "InferResponse in JSON, followed by the binary outputs"}
    }
    length = {"schema": COUNT, "description": "bytes of JSON in a response with binary outputs"}
    reply["headers"] = {_HEADER: length}
    operation = _operation(f"infer{suffix}", "Execute a model", reply, *sorted(http_statuses() | {408, 413, 415}))
    operation["parameters"] = [
        {
            "name": _HEADER,
            "in": "header",
            "schema": COUNT,
            "description": f"bytes of JSON, at most {DEFAULT_MAX_JSON // MIB} MiB by default; binary tensors follow it",
        }
    ]
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("InferHead")},
            _INFER: {"schema": BYTES | {"description": "InferHead in JSON, followed by the binary inputs"}},
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


def _logging() -> Json:
    read = _operation("logSettings", "The log settings", _json("the settings", "LogSettings"), 500)
    statuses = (400, 408, 413, 415, 500, 503)
    change = _operation("changeLogSettings", "Change log settings", _json("all settings", "LogSettings"), *statuses)
    body = {"type": "object", "properties": log_settings(), "additionalProperties": False}
    change["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return {"/v2/logging": {"get": read, "post": change}}


def _recent() -> Json:
    listed = _operation(
        "recentRequests", "The last answered requests", _json("the requests", "RecentRequests"), 400, 500, 503
    )
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": DEFAULT_LISTED}
    queries = {"outcome": {"enum": list(OUTCOMES)}, "model": TEXT, "limit": limit}
    listed["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in queries.items()]
    explained = _operation(
        "explanation", "Why a request had its outcome", _json("the explanation", "Explanation"), 404, 500, 503
    )
    base = "/v2/clockwork/requests"
    one = f"{base}/{{request}}"
    return {base: {"get": listed}, one: {"parameters": _parameters(one), "get": explained}}


def _timeline_path() -> Json:
    read = _operation(
        "timeline",
        "What the devices executed, and what they will execute",
        _json("the timeline", "Timeline"),
        400,
        500,
        503,
    )
    default = TimelineQuery()
    queries = (
        ("after", 0, 10**MAX_DIGITS - 1, "number of the last action that the client has"),
        ("past_ms", 0, MAX_SPAN // MILLISECOND, "age of the oldest ended action"),
        (
            "horizon_ms",
            0,
            MAX_SPAN // MILLISECOND,
            "largest delay of planned batches; 0: only ended actions",
        ),
        ("limit", 1, MAX_LIMIT, "largest number of ended actions"),
    )
    read["parameters"] = [
        {
            "name": name,
            "in": "query",
            "description": text,
            "schema": {"type": "integer", "minimum": least, "maximum": most, "default": getattr(default, name)},
        }
        for name, least, most, text in queries
    ]
    return {"/v2/clockwork/timeline": {"get": read}}


def _unsupported() -> Json:
    families = [f"/v2/{kind}sharedmemory{region}" for kind in ("system", "cuda") for region in ("", "/region/{region}")]
    both = ("/v2/trace/setting", "/v2/models/{model}/trace/setting")
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
            responses["503"]["headers"] = {"Retry-After": {"schema": TEXT, "description": "seconds, if known"}}
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
    name = TEXT | {"pattern": "^[^/]+$"}
    schemas = {"model": name, "version": name | {"example": "1"}, "region": name, "request": name, "file": name}
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": schemas[name]} for name in names]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: str) -> Json:
    return _content(description, _ref(schema))


def _content(description: str, schema: Json, kind: str = "application/json") -> Json:
    return {"description": description, "content": {kind: {"schema": schema}}}
