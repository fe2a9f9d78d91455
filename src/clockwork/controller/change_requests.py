"""Checks requests to load and unload models while the server serves, and makes the responses to them."""

from typing import Final

from clockwork.controller.catalog import Catalog
from clockwork.controller.events import Respond
from clockwork.controller.naming import load_spec
from clockwork.controller.responses import refusal_response
from clockwork.errors import InvalidRequestError
from clockwork.messages.faults import unknown_model, unknown_version
from clockwork.messages.requests import (
    LoadModelRequest,
    LoadModelResponse,
    ModelVersion,
    UnloadModelRequest,
    UnloadModelResponse,
)
from clockwork.messages.status import Status

MAX_VERSIONS: Final = 100
"""Limit of the versions of one model."""


def versions_to_load(catalog: Catalog, request: LoadModelRequest) -> tuple[str, tuple[ModelVersion, ...]]:
    """Return the model name and the versions that a load request asks the server to serve.

    Without a path and without versions, the paths of the model's last load are used.

    Raises:
        InvalidRequestError: the request is wrong.
    """
    if request.no_of_copies != 1:
        raise InvalidRequestError("no_of_copies must be 1 while the server is serving; copies are loaded at start-up")
    versions = request.versions or (ModelVersion("", request.path),)
    if not request.path and not request.versions:
        versions = catalog.sources(request.name)
        if not versions:
            raise InvalidRequestError(unknown_model(request.name, catalog.names()) + "; give the path of its file")
    if len(versions) > MAX_VERSIONS:
        raise InvalidRequestError(f"load has {len(versions)} versions; the limit is {MAX_VERSIONS}")
    specs = [load_spec(version.path, request.name, 1, 1) for version in versions]
    if len({version.number for version in versions}) < len(versions):
        raise InvalidRequestError("load lists a version twice")
    name = specs[0].name
    if copies_of(catalog, name):
        raise InvalidRequestError(f"{name} was loaded in copies; unload it first")
    return name, versions


def copies_of(catalog: Catalog, name: str) -> list[str]:
    """Return the names of the copies that were loaded under a name at start-up, or an empty list."""
    if name in catalog.names():
        return []
    return [other for other, model in catalog.names().items() if model.info.load == name]


def nothing_to_unload(catalog: Catalog, client_id: int, request: UnloadModelRequest) -> Respond:
    """Return the response to an unload of a model or version that is not ready."""
    name = request.name
    if ready := catalog.ready(name):
        text = unknown_version(name, request.version, ready)
        return refusal_response(client_id, request, Status.UNKNOWN_MODEL, text)
    if catalog.versions(name):  # unloaded already
        return unload_response(client_id, request.id)
    return refusal_response(client_id, request, Status.UNKNOWN_MODEL, unknown_model(name, catalog.names()))


def load_response(
    client_id: int, request_id: int, status: Status, message: str, models: tuple[str, ...] = ()
) -> Respond:
    """Return the response to a load."""
    return Respond(client_id, LoadModelResponse(request_id, status, message, models))


def unload_response(client_id: int, request_id: int, versions: tuple[str, ...] = ()) -> Respond:
    """Return the response to an unload that has succeeded."""
    return Respond(client_id, UnloadModelResponse(request_id, Status.SUCCESS, "", versions))
