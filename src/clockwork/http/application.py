"""Replies to HTTP requests.

The application calls `FrontEnd` for each HTTP request, and turns the result or the error into a reply.
"""

import asyncio
import logging
from collections.abc import Awaitable
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from clockwork.access import Right
from clockwork.errors import NotPermittedError
from clockwork.frontend import FrontEnd, ListFormat, failure_of_error
from clockwork.frontend.body_quota import BodyQuota
from clockwork.frontend.unpacking import Body
from clockwork.host.controller import ControllerHost
from clockwork.http.bodies import MAX_REPOSITORY_BODY, Bodies, header_bytes, packed
from clockwork.http.config import HttpConfig
from clockwork.http.dashboard import Dashboard
from clockwork.http.exchange import Exchange
from clockwork.http.heads import Headers
from clockwork.http.presence import ClientGoneError, unless_gone
from clockwork.http.replies import Reply, error_reply, id_header, json_reply
from clockwork.http.tracing import CLIENT_GONE, begin_trace, context_of, end_trace
from clockwork.messages.faults import quoted
from clockwork.messages.requests import InferRequest
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec
from clockwork.metrics import Metrics
from clockwork.oip.binary import inputs_of, parse_infer
from clockwork.oip.failures import bad_request
from clockwork.oip.log_settings import decoded_settings
from clockwork.oip.metadata import HTTP_EXTENSIONS
from clockwork.oip.openapi import document
from clockwork.oip.parameters import requested_slo
from clockwork.oip.response import response_body
from clockwork.oip.rest import (
    MethodNotAllowedError,
    Route,
    listed_requests,
    repository_head,
    route,
    timeline_query,
    unknown_path,
)
from clockwork.version import __version__

log = logging.getLogger("clockwork.http")

NEEDED_RIGHTS = {
    "live": Right.NONE,
    "ready": Right.NONE,
    "page": Right.NONE,
    "asset": Right.NONE,
    "load": Right.ADMIN,
    "unload": Right.ADMIN,
    "change_log_settings": Right.ADMIN,
}
"""The right that a client needs for each operation. Operations that are not in this table need INFER.

The files of the dashboard are the same on every server. The page asks the user for a token, and sends it with the
requests for data.
"""

MAX_FIELDS = 10
"""Largest number of parameters in a query."""

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")


def _encode_items(entries: list[Any]) -> bytes:
    return msgspec.json.encode(entries)[1:-1]


def http_front_end(host: ControllerHost, *, ignore_timeout: bool = False) -> FrontEnd:
    """Return a front end that encodes lists as JSON."""
    return FrontEnd(
        host,
        statistics=ListFormat(_encode_items, b'{"model_stats":[', b",", b"]}"),
        index=ListFormat(_encode_items, b"[", b",", b"]"),
        ignore_timeout=ignore_timeout,
    )


class Application:
    """Replies to every HTTP request of the server."""

    def __init__(
        self,
        front: FrontEnd,
        metrics: Metrics | None,
        dashboard: Dashboard | None,
        config: HttpConfig,
        quota: BodyQuota,
    ) -> None:
        """Create an application.

        Args:
            front: passes requests to the controller.
            metrics: returns the text of the metrics page; None: there is no metrics page.
            dashboard: serves the dashboard; None: there is no dashboard.
            config: limits of the front end.
            quota: limits the memory of the bodies of all connections together.
        """
        self._front = front
        self._stepper = front.stepper
        self._bodies = Bodies(config, quota)
        self._max_json = config.max_json
        self._metrics = metrics
        self._dashboard = dashboard

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request."""
        try:
            await self._serve(exchange)
        except Exception:
            log.exception("a reply could not be sent")
            exchange.connection.abort()

    async def _serve(self, exchange: Exchange) -> None:
        try:
            reply = await self._reply(exchange, dict(exchange.headers))
        except ClientGoneError:
            end_trace(self._front, exchange, CLIENT_GONE)
            return
        except MethodNotAllowedError as error:
            reply = error_reply(error.failure, error.allowed)
        except Exception as error:  # noqa: BLE001 - `failure_of_error` logs unexpected errors
            reply = error_reply(failure_of_error(error, log))
        finally:
            if exchange.large is not None:
                exchange.large.end(ClientGoneError())  # discards the rest of a body that is not needed
        if reply is not None:
            await exchange.respond(reply)
            end_trace(self._front, exchange, reply.status)

    async def _reply(self, exchange: Exchange, headers: Headers) -> Reply | None:
        """Return the reply to a request, or None if the reply was sent already."""
        found = route(exchange.method, exchange.path)
        access = self._front.access
        if not access.open:
            authorization = str(headers.get(b"authorization", b""), "latin-1")
            try:
                access.check(authorization, NEEDED_RIGHTS.get(found.operation, Right.INFER))
            except NotPermittedError as error:
                if authorization and error.status == Status.NOT_AUTHENTICATED:
                    await unless_gone(self._front.token_brake.delay(), exchange.presence)
                raise
        if found.operation == "infer":
            begin_trace(self._front, exchange, headers, found.version)
            self._front.check_version(found.model, found.version)
            with self._bodies.keeping() as kept:
                receiving = self._bodies.receive(exchange, headers, kept)
                return await packed(await self._infer(found, exchange, headers, receiving), headers)
        if found.operation in ("index", "load", "unload", "change_log_settings"):
            limit = None if found.operation == "load" else MAX_REPOSITORY_BODY  # a load may contain files
            with self._bodies.keeping() as kept:
                body = await self._bodies.receive(exchange, headers, kept, limit)
                if found.operation == "change_log_settings":
                    return json_reply(self._front.change_log_settings(decoded_settings(body)))
                return await self._repository(found, body)
        if found.operation in ("page", "asset", "events"):
            return await self._dashboard_reply(found, exchange, headers)
        reply = await unless_gone(self._get(found, exchange, headers), exchange.presence)
        # Triton's asyncio client accepts gzip in every request, but decompresses only replies to inferences.
        return await packed(reply, headers) if found.operation == "metrics" else reply

    async def _infer(self, found: Route, exchange: Exchange, headers: Headers, receiving: Awaitable[Body]) -> Reply:
        front, model = self._front, found.model
        parsed = await self._stepper.run(parse_infer(await receiving, header_bytes(headers), self._max_json))
        head = parsed.head
        slo, source = requested_slo(head.parameters, ignore_timeout=front.ignore_timeout)
        outputs = tuple(output.name for output in head.outputs)
        number = front.client.next_id()
        name = front.reception.request_ids.choose(head.id, context_of(exchange, headers)[0])

        def request_for(specs: tuple[TensorSpec, ...]) -> InferRequest:
            return InferRequest(
                number,
                model,
                specs,
                slo,
                outputs=outputs,
                version=found.version,
                request_id=name,
                slo_source=source,
            )

        if not parsed.all_binary:
            specs = parsed.specs()
            front.check_early(front.client, request_for(specs))
        specs, payload = await self._stepper.run(inputs_of(parsed))
        classes = any(output.parameters.classification is not None for output in head.outputs)
        batched = classes and (await front.model(model, found.version)).batchable
        inferring = front.infer(front.client, request_for(specs), payload, exchange.arrived, exchange.trace)
        response, data = await unless_gone(inferring, exchange.presence)
        del payload, parsed, inferring  # frees the memory of large objects early
        front.reception.note_slo(model, slo, response.timing.total, version=found.version)
        body = response_body(head, model, response, data, batched, self._max_json)
        json, binary = await self._stepper.run(body)
        if not binary:
            return Reply(200, [JSON, id_header(name)], json)
        length = b"%d" % sum(map(len, json))
        return Reply(200, [BINARY, (b"inference-header-content-length", length), id_header(name)], [*json, *binary])

    async def _get(self, found: Route, exchange: Exchange, headers: Headers) -> Reply:
        front = self._front
        model = found.model
        match found.operation:
            case "live":
                return json_reply({"live": True})
            case "ready":
                ready = front.is_ready()
                return json_reply({"ready": ready}, 200 if ready else 503)
            case "openapi":
                return Reply(200, [JSON], [_openapi()])
            case "metrics":
                if self._metrics is None:
                    raise unknown_path(exchange.path)
                accept = str(headers.get(b"accept", b""), "latin-1")
                content_type, text = await self._metrics.text(accept)
                return Reply(200, [(b"content-type", content_type.encode()), (b"vary", b"accept")], text)
            case "requests":
                query = listed_requests(_fields(exchange.query))
                return json_reply({"requests": await front.recent_requests(query.outcome, query.model, query.limit)})
            case "timeline":
                return json_reply(await front.timeline(timeline_query(_fields(exchange.query))))
            case "explanation":
                return json_reply(await front.explanation(found.request_id))
            case "log_settings":
                return json_reply(front.log_settings())
            case "server":
                return json_reply(front.server_metadata(HTTP_EXTENSIONS))
            case "scaling":
                return json_reply(await front.scaling())
            case "all_stats":
                return Reply(200, [JSON], await front.all_statistics())
            case "stats":
                return json_reply({"model_stats": front.model_statistics(model, found.version)})
            case "model_ready":
                await front.check_model_ready(model, found.version)
                return json_reply({"name": model, "ready": True})
            case "config":
                return json_reply(await front.model_config(model, found.version))
        return json_reply(await front.model_metadata(model, found.version))

    async def _dashboard_reply(self, found: Route, exchange: Exchange, headers: Headers) -> Reply | None:
        dashboard = self._dashboard
        if dashboard is not None and found.operation == "events":
            await dashboard.events(exchange)
            return None
        reply = None if dashboard is None else dashboard.file(found.file, headers)
        if reply is None:
            raise unknown_path(exchange.path)
        return reply

    async def _repository(self, found: Route, body: Body) -> Reply:
        small = len(body) <= MAX_REPOSITORY_BODY
        head = repository_head(body) if small else await asyncio.to_thread(repository_head, body)
        if found.operation == "index":
            return Reply(200, [JSON], await self._front.repository_index(head.ready))
        if found.operation == "unload":
            await self._front.unload(found.model, head.parameters)
        else:
            await self._front.load(found.model, head.parameters, default_name=found.model)
        return json_reply({})


def _fields(query: bytes) -> dict[str, str]:
    """Return the parameters of a query string.

    Raises:
        RequestFailedError: the query has too many parameters, or one of them several times.
    """
    try:
        pairs = parse_qsl(query.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise bad_request(f"the query has too many parameters; at most {MAX_FIELDS} are accepted") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise bad_request(f"query parameter {quoted(repeated)} is repeated; send it once")
    return fields


@cache
def _openapi() -> bytes:
    return msgspec.json.encode(document(__version__))
