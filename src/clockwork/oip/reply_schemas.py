"""The schemas of the replies of the HTTP front end, for the OpenAPI document.

tests/http/test_openapi.py compares them with the replies of a live server.
"""

from typing import Any, Final, TypeAlias

from clockwork.messages.explanation import BROKEN, OUTCOMES
from clockwork.messages.status import Status
from clockwork.messages.tensors import Datatype
from clockwork.messages.timeline import KINDS, MAX_IDS
from clockwork.oip.log_settings import MAX_VERBOSE_LEVEL

Json: TypeAlias = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
VERSION: Final[Json] = {"type": "string", "pattern": "^[0-9]+$", "example": "1"}
BYTES: Final[Json] = {"type": "string", "format": "binary"}
FLAG: Final[Json] = {"type": "boolean"}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
MS: Final[Json] = {"type": "number", "minimum": 0, "description": "milliseconds"}
DATATYPE: Final[Json] = {"enum": [str(datatype) for datatype in Datatype]}
DIMS: Final[Json] = {"type": "array", "items": {"type": "integer", "minimum": -1}}


def object_of(properties: Json, *optional: str) -> Json:
    """Return the schema of an object. All members are required, except the members in ``optional``."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def list_of(items: Json) -> Json:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def reply_schemas() -> Json:
    """Return the schemas by name."""
    tensor = object_of({"name": TEXT, "datatype": DATATYPE, "shape": DIMS})
    model_input = object_of({"name": TEXT, "datatype": DATATYPE, "shape": DIMS, "optional": FLAG}, "optional")
    config_tensor = {"name": TEXT, "data_type": TEXT | {"pattern": "^TYPE_"}, "dims": DIMS}
    entry = {
        "name": TEXT,
        "version": VERSION,
        "state": {"enum": ["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]},
        "reason": TEXT,
    }
    return {
        "Error": _error(),
        "Live": object_of({"live": {"const": True}}),
        "Ready": object_of({"ready": FLAG}),
        "Server": object_of({"name": TEXT, "version": TEXT, "extensions": list_of(TEXT)}),
        "Model": object_of(
            {
                "name": TEXT,
                "versions": list_of(VERSION),
                "platform": TEXT,
                "inputs": list_of(model_input),
                "outputs": list_of(tensor),
            }
        ),
        "ModelReady": object_of({"name": TEXT, "ready": {"const": True}}),
        "Config": object_of(
            {
                "name": TEXT,
                "platform": TEXT,
                "backend": TEXT,
                "max_batch_size": COUNT,
                "input": list_of(object_of({**config_tensor, "format": TEXT, "optional": FLAG})),
                "output": list_of(object_of({**config_tensor, "label_filename": TEXT})),
                "version_policy": {"type": "object"},
                "optimization": {"type": "object"},
                "instance_group": list_of({"type": "object"}),
                "default_model_filename": TEXT,
                "parameters": {"type": "object"},
            }
        ),
        "Scaling": _scaling(),
        "Statistics": _statistics(),
        "LogSettings": object_of(log_settings()),
        "Index": list_of(object_of(entry, "version")),
        "RecentRequests": object_of({"requests": list_of(_request())}),
        "Explanation": _explanation(),
        "Timeline": _timeline(),
        "Empty": {"type": "object", "maxProperties": 0},
        "InferResponse": _infer_response(),
    }


def log_settings() -> Json:
    """Return the schemas of the log settings, by name."""
    return {
        "log_file": {"const": "", "description": "always empty: the log is written to stderr"},
        "log_info": FLAG,
        "log_warning": FLAG,
        "log_error": FLAG,
        "log_verbose_level": COUNT | {"maximum": MAX_VERBOSE_LEVEL, "description": "1 or more: log debug lines"},
        "log_format": {"enum": ["default", "json"], "description": "cannot be changed while the server runs"},
    }


def _request() -> Json:
    return object_of(
        {
            "request_id": TEXT,
            "model": TEXT,
            "version": TEXT,
            "outcome": {"enum": [outcome for outcome in OUTCOMES if outcome != BROKEN]},
            "reason": TEXT | {"description": "reason of a refusal, as in clockwork_refusals_total"},
            "age_ms": MS | {"description": "milliseconds since the response"},
            "slo_ms": MS,
            "total_ms": MS,
            "broken": FLAG | {"description": "whether a promise was broken"},
            "message": TEXT,
        }
    )


def _explanation() -> Json:
    described = _request()
    described["description"] = "times of events are in milliseconds after the request's arrival"
    lists = dict.fromkeys(("ahead", "steps", "compared"), list_of({"type": "object"}))
    described["properties"] |= {"mates": list_of(TEXT), **lists}
    return described


def _timeline() -> Json:
    span = {"type": "array", "items": MS, "minItems": 2, "maxItems": 2}
    times = ("sent", "arrived", "earliest", "latest", "planned_begin", "planned_end", "begin", "end")
    optional: Json = {
        "number": COUNT | {"description": "position among all ended actions"},
        "id": COUNT,
        "status": TEXT,
        "error": TEXT,
        **{f"{name}_ms": MS for name in times},
        "input_ms": span | {"description": "begin and end of the copy of the inputs"},
        "output_ms": span | {"description": "begin and end of the copy of the outputs"},
    }
    action: Json = {
        "device": TEXT,
        "kind": {"enum": list(KINDS)},
        "model": TEXT,
        "version": TEXT,
        "rows": COUNT,
        "count": COUNT | {"description": "number of requests"},
        "requests": list_of(TEXT) | {"description": f"ids of the first {MAX_IDS} requests"},
        "late": COUNT | {"description": "requests that missed, or are predicted to miss, their deadline"},
    }
    actions = list_of(object_of(action | optional, *optional))
    numbers = dict.fromkeys(("last", "latest", "dropped", "pending", "at_risk"), COUNT)
    return object_of(
        {
            "now_ms": MS | {"description": "present time in milliseconds of the server's clock, as all times"},
            **numbers,
            "devices": list_of(TEXT),
            "ended": actions,
            "upcoming": actions,
        }
    )


def _error() -> Json:
    numbers = [int(status) for status in Status if status != Status.SUCCESS]
    return object_of(
        {
            "error": TEXT | {"description": "error message"},
            "status": {"enum": numbers},
            "status_name": {"enum": [Status(number).name for number in numbers]},
            "predicted_ms": MS | {"description": "predicted completion: milliseconds after the request's arrival"},
            "retry_after_ms": MS | {"description": "milliseconds after which to retry"},
            "id": TEXT | {"description": "id of the inference request"},
        },
        "predicted_ms",
        "retry_after_ms",
        "id",
    )


def _scaling() -> Json:
    number = {"type": "number", "minimum": 0}
    kind = {
        "kind": TEXT,
        "devices": COUNT,
        "wanted": COUNT,
        "why": TEXT,
        "needed": number | {"description": "devices that the last seconds need, without damping"},
        "execution": number | {"description": "work of the requests, in device-seconds per second"},
        "refused": number | {"description": "part of execution that was refused or late"},
        "loading": number | {"description": "work of loading weights, in device-seconds per second"},
        "target": number,
        "held_s": number | {"description": "seconds for which an earlier peak still counts"},
    }
    model = {
        "model": TEXT,
        "kind": TEXT,
        "rate": number | {"description": "rows per second"},
        "refused": number | {"description": "rows per second that were refused or late"},
        "row_ms": MS,
        "work": number | {"description": "device-seconds per second"},
        "version": VERSION,
    }
    return object_of({"kinds": list_of(object_of(kind)), "models": list_of(object_of(model)), "other_models": COUNT})


def _statistics() -> Json:
    duration = object_of({"count": COUNT, "ns": COUNT})
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
        "name": TEXT,
        "version": VERSION,
        "last_inference": COUNT | {"description": "milliseconds since 1970; 0: no inference yet"},
        "inference_count": COUNT,
        "execution_count": COUNT,
        "inference_stats": object_of(dict.fromkeys(names, duration)),
        "batch_stats": list_of({"type": "object"}),
        "response_stats": {"type": "object", "description": "always empty: each request gets one response"},
        "memory_usage": list_of({"type": "object"}),
    }
    return object_of({"model_stats": list_of(object_of(model))})


def _infer_response() -> Json:
    parameters = object_of(
        {
            "predicted_ms": MS | {"description": "predicted completion: milliseconds after the request's arrival"},
            "queue_ms": MS,
            "load_ms": MS | {"description": "the part of queue_ms in which weights were loaded, in milliseconds"},
            "exec_ms": MS,
            "total_ms": MS,
            "batch_size": COUNT,
            "cold_start": FLAG,
        },
        "predicted_ms",
    )
    output = object_of(
        {
            "name": TEXT,
            "datatype": DATATYPE,
            "shape": DIMS,
            "data": list_of({}) | {"description": "elements in row-major order"},
            "parameters": object_of({"binary_data_size": COUNT}),
        },
        "data",
        "parameters",
    )
    properties = {"model_name": TEXT, "model_version": VERSION, "id": TEXT}
    return object_of({**properties, "parameters": parameters, "outputs": list_of(output)}, "id")
