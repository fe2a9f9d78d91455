"""The paths of the Open Inference Protocol over HTTP, and of Triton's extensions."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from clockwork.errors import ClockworkError
from clockwork.messages.status import Status
from clockwork.oip.contract import Failure
from clockwork.oip.metadata import SHOWN, unknown_version
from clockwork.oip.unsupported import unsupported

SERVER: Final = {
    "v2": ("GET", "server"),
    "v2/openapi.json": ("GET", "openapi"),
    "v2/health/live": ("GET", "live"),
    "v2/health/ready": ("GET", "ready"),
    "v2/models/stats": ("GET", "all_stats"),
    "v2/repository/index": ("POST", "index"),
    "metrics": ("GET", "metrics"),
}
"""What is asked of the server: method and meaning by path."""

MODEL: Final = {
    "": ("GET", "model"),
    "ready": ("GET", "model_ready"),
    "config": ("GET", "config"),
    "stats": ("GET", "stats"),
    "infer": ("POST", "infer"),
}
"""What is asked of a model: method and meaning by what follows its name and version."""

REPOSITORY: Final = {"load": ("POST", "load"), "unload": ("POST", "unload")}
"""What is asked of the repository about a model."""


class RestError(ClockworkError):
    """What a client is told instead of an answer; ``allow``: the method that it should have used."""

    def __init__(self, failure: Failure, allow: str = "") -> None:
        """See `Failure`."""
        super().__init__(failure.message)
        self.failure = failure
        self.allow = allow


class Route(Struct, frozen=True):
    """What is asked, and of which model."""

    what: str
    model: str = ""


class RepositoryHead(Struct, frozen=True):
    """The JSON of a request to the repository."""

    parameters: dict[str, Any] = {}
    ready: bool = False


def route(method: str, path: str) -> Route:
    """What a request line asks for.

    Raises:
        RestError: 404, there is nothing of that name; 405, it takes another method; 501, only Triton has it.
    """
    whole = path.strip("/")
    if found := SERVER.get(whole):
        return _checked(method, found, "")
    match whole.split("/"):
        case ["v2", "models", model, "versions", version, *rest] if len(rest) < 2:
            found = MODEL.get("".join(rest))
            if found and (failed := unknown_version(model, version)):
                raise RestError(failed)
        case ["v2", "models", model, *rest] if len(rest) < 2:
            found = MODEL.get("".join(rest))
        case ["v2", "repository", "models", model, action]:
            found = REPOSITORY.get(action)
        case _:
            model = ""
    if found and model:
        return _checked(method, found, model)
    if missing := unsupported(whole.split("/")):
        raise _missing(method, *missing)
    raise nothing_at(path)


def repository_head(body: bytes | bytearray | memoryview) -> RepositoryHead:
    """The body of a request to the repository; none is one without parameters.

    Raises:
        RestError: it is none.
    """
    if len(body) <= SHOWN and not bytes(body).strip():
        return RepositoryHead()
    try:
        return msgspec.json.decode(body, type=RepositoryHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise wrong(f"the body is no request to the repository: {error}") from None


def nothing_at(path: str) -> RestError:
    """404: no such path."""
    message = f"there is nothing at {path[:SHOWN]!r}; see the Open Inference Protocol v2 for what is"
    return RestError(Failure(404, "NOT_FOUND", message, Status.INVALID_REQUEST))


def unknown(message: str) -> RestError:
    """404: no such model, or version of it."""
    return RestError(Failure(404, "NOT_FOUND", message, Status.UNKNOWN_MODEL))


def wrong(message: str, http: int = 400) -> RestError:
    """400, or another status for what is the client's fault."""
    return RestError(Failure(http, "INVALID_ARGUMENT", message, Status.INVALID_REQUEST))


def _missing(method: str, methods: tuple[str, ...], why: str) -> RestError:
    if method in methods:
        return RestError(Failure(501, "UNIMPLEMENTED", why, Status.INVALID_REQUEST))
    return _other_method(method, ", ".join(methods))


def _checked(method: str, found: tuple[str, str], model: str) -> Route:
    wanted, what = found
    if method == wanted:
        return Route(what, model)
    raise _other_method(method, wanted)


def _other_method(method: str, wanted: str) -> RestError:
    failure = Failure(405, "UNIMPLEMENTED", f"this takes {wanted}, and no {method[:SHOWN]}", Status.INVALID_REQUEST)
    return RestError(failure, wanted)
