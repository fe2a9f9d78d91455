"""The paths of the Open Inference Protocol over HTTP, and the paths of Triton's extensions."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from clockwork.messages.explanation import DEFAULT_LISTED
from clockwork.messages.faults import MAX_QUOTED, quoted
from clockwork.messages.status import Status
from clockwork.messages.timeline import DEFAULT_HORIZON, DEFAULT_LIMIT, DEFAULT_PAST
from clockwork.oip.failures import Failure, RequestFailedError, bad_request
from clockwork.oip.long_strings import LongStrings
from clockwork.oip.unsupported import unsupported_path
from clockwork.units import MILLISECOND

SERVER: Final = {
    "": ("GET", "page"),
    "v2": ("GET", "server"),
    "v2/openapi.json": ("GET", "openapi"),
    "v2/health/live": ("GET", "live"),
    "v2/health/ready": ("GET", "ready"),
    "v2/models/stats": ("GET", "all_stats"),
    "v2/clockwork/scaling": ("GET", "scaling"),
    "v2/repository/index": ("POST", "index"),
    "v2/clockwork/requests": ("GET", "requests"),
    "v2/clockwork/timeline": ("GET", "timeline"),
    "v2/clockwork/events": ("GET", "events"),
    "metrics": ("GET", "metrics"),
}
"""Paths of requests about the server. The values are the method and the operation."""

MODEL: Final = {
    "": ("GET", "model"),
    "ready": ("GET", "model_ready"),
    "config": ("GET", "config"),
    "stats": ("GET", "stats"),
    "infer": ("POST", "infer"),
}
"""Paths of requests about a model, without the model's name and version. The values are the method and the operation.
"""

EXPLANATION: Final = ("GET", "explanation")
"""Method and operation of a request for the explanation of an inference request."""

ASSET: Final = ("GET", "asset")
"""Method and operation of a request for a file of the dashboard."""

REPOSITORY: Final = {"load": ("POST", "load"), "unload": ("POST", "unload")}
"""Last parts of the paths of repository requests about a model. The values are the method and the operation."""

LOGGING: Final = {"GET": ("GET", "log_settings"), "POST": ("POST", "change_log_settings")}
"""Methods and operations of requests about the log settings (``v2/logging``), by the method of the request."""

MAX_DIGITS: Final = 18
"""Limit of the digits of a number in a query."""


class MethodNotAllowedError(RequestFailedError):
    """Raised if the server has the path, but not with the request's method (HTTP status 405)."""

    def __init__(self, method: str, allowed: str) -> None:
        """Create the exception. ``allowed`` is the value of the header Allow."""
        message = f"method {method[:MAX_QUOTED]} is not allowed here; use {allowed.replace(', ', ' or ')}"
        super().__init__(Failure(405, "UNIMPLEMENTED", message, Status.INVALID_REQUEST))
        self.allowed = allowed


class Route(Struct, frozen=True):
    """The operation for a request line, and the names in its path.

    ``request_id`` is the id of the request to explain. ``file`` is the name of a file of the dashboard.
    """

    operation: str
    model: str = ""
    version: str = ""
    request_id: str = ""
    file: str = ""


class RepositoryHead(Struct, frozen=True):
    """The JSON of a request to the repository. A member with the value ``null`` is treated as absent."""

    nullable_parameters: dict[str, Any] | None = field(default=None, name="parameters")
    nullable_ready: bool | None = field(default=None, name="ready")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the request, which may be empty."""
        return self.nullable_parameters or {}

    @property
    def ready(self) -> bool:
        """Whether the client requests only the models that are ready."""
        return bool(self.nullable_ready)


def route(method: str, path: str) -> Route:
    """Return the operation for a request line.

    Raises:
        RequestFailedError: the path is unknown (404), only Triton has the path (501), or the method is not allowed
            (405).
    """
    whole = path.strip("/")
    version = ""
    if found := SERVER.get(whole):
        return _checked(method, found)
    match whole.split("/"):
        case ["v2", "models", model, "versions", version, *rest] if len(rest) < 2:
            found = MODEL.get("".join(rest))
        case ["v2", "models", model, *rest] if len(rest) < 2:
            found = MODEL.get("".join(rest))
        case ["v2", "repository", "models", model, action]:
            found = REPOSITORY.get(action)
        case ["v2", "clockwork", "requests", _, *_]:
            request_id = path.lstrip("/").removeprefix("v2/clockwork/requests/")
            return replace(_checked(method, EXPLANATION), request_id=request_id)
        case ["v2", "logging"]:
            if method not in (*LOGGING, "HEAD"):
                raise MethodNotAllowedError(method, "GET, HEAD, POST")
            return _checked(method, LOGGING.get(method, LOGGING["GET"]))
        case ["dashboard", file]:
            return replace(_checked(method, ASSET), file=file)
        case _:
            model = ""
    if found and model:
        return _checked(method, found, model, version)
    if unsupported := unsupported_path(whole.split("/")):
        methods, message = unsupported
        if method not in methods:
            raise MethodNotAllowedError(method, ", ".join(methods))
        raise RequestFailedError(Failure.unsupported(message))
    raise unknown_path(path)


def repository_head(body: bytes | bytearray | memoryview) -> RepositoryHead:
    """Decode the body of a request to the repository. An empty body means a request without parameters.

    Long strings in the parameters stay encoded as in JSON, in a memoryview without the quotes.

    Raises:
        InvalidRequestError: the body without long strings is too long.
        RequestFailedError: the body is not a repository request.
    """
    if len(body) <= MAX_QUOTED and not bytes(body).strip():
        return RepositoryHead()
    long = LongStrings(memoryview(body))
    try:
        head = msgspec.json.decode(long.rest, type=RepositoryHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the body is not a repository request: {error}") from None
    return RepositoryHead({name: long.restore(value) for name, value in head.parameters.items()}, head.ready)


class ListedRequests(Struct, frozen=True):
    """The query of a request for recent requests."""

    outcome: str = ""
    model: str = ""
    limit: int = DEFAULT_LISTED


def listed_requests(fields: Mapping[str, str]) -> ListedRequests:
    """Check the query of a request for recent requests.

    Raises:
        RequestFailedError: the query has an unknown parameter, or ``limit`` is not an integer.
    """
    _check_names(fields, ListedRequests.__struct_fields__)
    limit = _integer(fields, "limit", DEFAULT_LISTED)
    return ListedRequests(fields.get("outcome", ""), fields.get("model", ""), limit)


class TimelineQuery(Struct, frozen=True):
    """The query of a request for the timeline. `TimelineRequest` explains the fields."""

    after: int = 0
    past_ms: int = DEFAULT_PAST // MILLISECOND
    horizon_ms: int = DEFAULT_HORIZON // MILLISECOND
    limit: int = DEFAULT_LIMIT


def timeline_query(fields: Mapping[str, str]) -> TimelineQuery:
    """Check the query of a request for the timeline.

    Raises:
        RequestFailedError: the query has an unknown parameter, or a parameter is not an integer.
    """
    _check_names(fields, TimelineQuery.__struct_fields__)
    default = TimelineQuery()
    return TimelineQuery(*(_integer(fields, name, getattr(default, name)) for name in TimelineQuery.__struct_fields__))


def _check_names(fields: Mapping[str, str], names: tuple[str, ...]) -> None:
    if unknown := [name for name in fields if name not in names]:
        raise bad_request(f"query parameter {quoted(unknown[0])} is unknown; expected one of: {', '.join(names)}")


def _integer(fields: Mapping[str, str], name: str, default: int) -> int:
    value = fields.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise bad_request(f"{name} is {quoted(value)}; it must be an integer of at most {MAX_DIGITS} digits")
    return int(value)


def unknown_path(path: str) -> RequestFailedError:
    """Return the error for a path that the server does not have."""
    message = f"path {quoted(path)} is unknown; GET /v2/openapi.json lists all paths"
    return RequestFailedError(Failure(404, "NOT_FOUND", message, Status.INVALID_REQUEST))


def _checked(method: str, found: tuple[str, str], model: str = "", version: str = "") -> Route:
    allowed, operation = found
    if method != allowed and (method, allowed) != ("HEAD", "GET"):  # load balancers send HEAD to check the server
        raise MethodNotAllowedError(method, "GET, HEAD" if allowed == "GET" else allowed)
    return Route(operation, model, version)
