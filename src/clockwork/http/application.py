"""The ASGI application: one request, one reply.

Rules of the file: whatever is raised becomes a reply in JSON; what was not foreseen is logged, and its text stays here.
"""

import logging
from collections.abc import Awaitable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec

from clockwork.access import Right
from clockwork.clock import monotonic_epoch
from clockwork.controller.stage import Stage
from clockwork.errors import ConnectionLostError, InvalidRequestError, NotPermittedError
from clockwork.host.controller import ControllerHost
from clockwork.host.local_client import LocalClient
from clockwork.http.asgi import (
    BEGAN,
    PRESENCE,
    RESPOND,
    ClientGoneError,
    Headers,
    Receive,
    Reply,
    Scope,
    Send,
    json_reply,
    refusal,
)
from clockwork.http.bodies import MAX_REPOSITORY_BODY, Bodies, Body, header_bytes, packed
from clockwork.http.config import HttpConfig
from clockwork.http.listing import json_list
from clockwork.http.receiving import LARGE_BODY, Held
from clockwork.http.waiting import unless_gone
from clockwork.messages.requests import (
    DEFAULT_RETRY,
    ErrorResponse,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    ModelSummary,
    Request,
)
from clockwork.messages.status import Status
from clockwork.metrics import CONTENT_TYPE, Metrics
from clockwork.oip.binary import inputs_of, parse_infer
from clockwork.oip.contract import Failure, check_priority, check_supported, denial, failure, no_device, slo_of
from clockwork.oip.metadata import (
    EXTENSIONS_OF_HTTP,
    SHOWN,
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from clockwork.oip.openapi import document
from clockwork.oip.response import response_body
from clockwork.oip.rest import RestError, Route, nothing_at, repository_head, route, unknown, wrong
from clockwork.stepping import BACKGROUND_REST, SharedResult
from clockwork.units import Nanos
from clockwork.version import __version__

log = logging.getLogger("clockwork.http")

ResponseT = TypeVar("ResponseT")

NEEDED = {"live": Right.NONE, "ready": Right.NONE, "load": Right.ADMIN, "unload": Right.ADMIN}
"""The right that is needed for what is asked; INFER for all others."""

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")


class Application:
    """Answers HTTP requests by asking the controller."""

    def __init__(self, host: ControllerHost, client: LocalClient, config: HttpConfig, held: Held) -> None:
        """``client`` is used for all requests; ``held`` counts for all connections."""
        self._host = host
        self._stepper = host.stepper
        self._client = client
        self._access = host.access
        self._bodies = Bodies(config, held)
        self._max_json = config.max_json
        self._metrics = Metrics(host.description, host.stepper, config.model_histograms) if config.metrics else None
        self._all_statistics: SharedResult[Sequence[bytes]] = SharedResult(self._made_statistics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification; what `LimitedProtocol` puts into the scope is needed as well."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        try:
            reply = await packed(await self._reply(scope, headers, receive), headers)
        except ClientGoneError:
            return
        except RestError as error:
            reply = refusal(error)
        except InvalidRequestError as error:
            reply = refusal(wrong(str(error)))
        except NotPermittedError as error:
            reply = refusal(RestError(denial(error)))
        except ConnectionLostError:
            reply = refusal(RestError(failure(Status.SHUTTING_DOWN, "the server is shutting down")))
        except Exception:  # one request's, and nobody else's
            log.exception("a request failed that should not have")
            reply = refusal(RestError(failure(Status.ERROR, "the server failed; its log says why")))
        finally:
            if (large := scope.get(LARGE_BODY)) is not None:
                large.end(ClientGoneError())  # what was refused without a look at its body is not received any further
        await scope[RESPOND](reply)

    async def _reply(self, scope: Scope, headers: Headers, receive: Receive) -> Reply:
        asked = route(scope["method"], scope["path"])
        if not self._access.open:
            authorization = str(headers.get(b"authorization", b""), "latin-1")
            self._access.check(authorization, NEEDED.get(asked.what, Right.INFER))
        if asked.what == "infer":
            with self._bodies.keeping() as kept:
                receiving = self._bodies.receive(scope, headers, receive, kept)
                return await self._infer(asked.model, scope, headers, receiving)
        if asked.what in ("index", "load", "unload"):
            with self._bodies.keeping() as kept:
                body = await self._bodies.receive(scope, headers, receive, kept, MAX_REPOSITORY_BODY)
                return await self._repository(asked, body)
        if asked.what == "metrics":
            return await unless_gone(self._scraped(scope["path"]), scope[PRESENCE])
        return await unless_gone(self._told(asked), scope[PRESENCE])

    async def _scraped(self, path: str) -> Reply:
        if self._metrics is None:
            raise nothing_at(path)
        return Reply(200, [(b"content-type", CONTENT_TYPE.encode())], await self._metrics.text())

    async def _infer(self, model: str, scope: Scope, headers: Headers, receiving: Awaitable[Body]) -> Reply:
        asked = await self._stepper.run(parse_infer(await receiving, header_bytes(headers), self._max_json))
        head = asked.head
        try:
            slo = slo_of(head.parameters)
            check_priority(head.parameters)
            check_supported(head.parameters)
        except ValueError as error:
            raise wrong(str(error)) from None
        wanted = tuple(dict.fromkeys(output.name for output in head.outputs))
        request_id = self._client.next_id()
        if not asked.all_binary:
            self._refuse_early(InferRequest(request_id, model, asked.specs(), slo, None, wanted))
        specs, payload = await self._stepper.run(inputs_of(asked))
        request = InferRequest(request_id, model, specs, slo, None, wanted)
        asking = self._ask(request, InferResponse, payload, scope[BEGAN])
        response, data = await unless_gone(asking, scope[PRESENCE])
        del payload, asked, asking  # they may be large
        _check(response)
        self._host.reception.note_slo(model, slo, response.timing.total)
        classes = any(output.parameters.classification is not None for output in head.outputs)
        batched = classes and (await self._model(model)).batchable
        said, binary = await self._stepper.run(response_body(head, model, response, data, batched, self._max_json))
        if not binary:
            return Reply(200, [JSON], said)
        length = b"%d" % sum(map(len, said))
        return Reply(200, [BINARY, (b"inference-header-content-length", length)], [*said, *binary])

    def _refuse_early(self, request: InferRequest) -> None:
        """Raise the refusal of a request whose inputs are not the model's, before they are decoded."""
        refused = self._client.refuse_early(request)
        if refused is not None:
            _check(refused)

    async def _told(self, asked: Route) -> Reply:
        """What is asked by GET."""
        match asked.what:
            case "live":
                return json_reply({"live": True})
            case "ready":
                ready = self._host.is_ready()
                return json_reply({"ready": ready}, 200 if ready else 503)
            case "openapi":
                return Reply(200, [JSON], [_described()])
            case "server":
                return json_reply(server_metadata(__version__, *EXTENSIONS_OF_HTTP))
            case "all_stats":
                return Reply(200, [JSON], await self._all_statistics.get())
            case "stats":
                return json_reply(self._statistics(asked.model))
            case "model_ready" if not self._serving():
                raise RestError(self._no_model_ready())
        model = await self._model(asked.model)
        match asked.what:
            case "config":
                return json_reply(model_config(model))
            case "model_ready" if not self._host.is_ready(model.name):
                raise RestError(no_device(model.name))
            case "model_ready":
                return json_reply({"name": model.name, "ready": True})
        return json_reply(model_metadata(model))

    def _statistics(self, name: str) -> Any:
        found = self._host.description().status_of(name)
        if found is None:
            raise _no_model(name)
        return {"model_stats": [model_statistics(found, monotonic_epoch())]}

    async def _made_statistics(self) -> Sequence[bytes]:
        epoch = monotonic_epoch()
        entries = (model_statistics(model, epoch) for model in self._host.description().statuses())
        return await self._stepper.run(json_list(entries, b'{"model_stats":[', b"]}"), rest=BACKGROUND_REST)

    async def _index(self, ready_only: bool) -> Reply:
        said = self._host.description()
        index = repository_index(said.models(), said.broken, said.is_ready, said.stage, self._serving(), ready_only)
        return Reply(200, [JSON], await self._stepper.run(json_list(index)))

    async def _repository(self, asked: Route, body: Body) -> Reply:
        head = repository_head(body)
        if asked.what == "index":
            return await self._index(head.ready)
        if asked.what == "unload":
            raise wrong("models are not unloaded: weights leave the devices by themselves when they are not asked for")
        path = head.parameters.get("path", asked.model)
        others = sorted(name[:SHOWN] for name in head.parameters if name != "path")
        if not isinstance(path, str) or others:
            raise wrong(f"a load has one parameter, path, which is a text; found {', '.join(others) or 'another type'}")
        request = LoadModelRequest(self._client.next_id(), path, asked.model)
        response, _ = await self._ask(request, LoadModelResponse)
        if response.status != Status.SUCCESS:
            raise RestError(failure(response.status, response.message))
        return json_reply({})

    async def _model(self, name: str) -> ModelSummary:
        if self._serving():
            found = self._host.description().summary_of(name)
        else:
            response, _ = await self._ask(ListModelsRequest(self._client.next_id()), ListModelsResponse)
            if response.status != Status.SUCCESS:
                raise RestError(failure(response.status, response.message))
            found = next((model for model in response.models if model.name == name), None)
        if found is None:
            raise _no_model(name)
        return found

    def _no_model_ready(self) -> Failure:
        if self._host.progress()[0] == Stage.DRAINING.value:
            return failure(Status.SHUTTING_DOWN, "no model is ready: the server is shutting down")
        return failure(Status.INITIALIZING, "no model is ready: the server is starting up", retry_after=DEFAULT_RETRY)

    def _serving(self) -> bool:
        return self._host.progress()[0] == Stage.SERVING.value

    async def _ask(
        self, request: Request, expected: type[ResponseT], payload: Any = b"", arrival: Nanos | None = None
    ) -> tuple[ResponseT, Any]:
        response, data = await self._client.ask(request, payload, arrival)
        if isinstance(response, ErrorResponse):
            raise RestError(failure(response.status, response.message))
        assert isinstance(response, expected)
        return response, data


def _check(response: InferResponse) -> None:
    """Raise what a client is told whose request did not succeed."""
    if response.status != Status.SUCCESS:
        raise RestError(failure(response.status, response.message, response.predicted, response.retry_after))


def _no_model(name: str) -> RestError:
    return unknown(f"no model is called {name[:SHOWN]!r}")


@cache
def _described() -> bytes:
    return msgspec.json.encode(document(__version__))
