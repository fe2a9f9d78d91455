"""Runs the HTTP server (uvicorn) as a task of the controller's event loop."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import uvicorn

from clockwork.dashboard.feed import Feed
from clockwork.dashboard.log_lines import LogLines
from clockwork.errors import ServerError
from clockwork.frontend.body_quota import BodyQuota
from clockwork.host.controller import ControllerHost
from clockwork.host.log_events import event_fields
from clockwork.http.application import Application, http_front_end
from clockwork.http.config import DEFAULT, HttpConfig
from clockwork.http.dashboard import Dashboard, timeline_reader
from clockwork.http.protocol import LimitedProtocol
from clockwork.http.receiving import Receiver
from clockwork.http.shedding import ShedReplies
from clockwork.metrics import Metrics
from clockwork.net.accepting import accept_connections, bind_sockets
from clockwork.net.address import Address

log = logging.getLogger("clockwork.http")


@asynccontextmanager
async def serving_http(host: ControllerHost, address: Address, config: HttpConfig = DEFAULT) -> AsyncIterator[Address]:
    """Serve HTTP until the context ends. The context's value is the address with the port that the server has chosen.

    Raises:
        ServerError: the address is in use or not allowed.
    """
    sockets = await _listen(address, config.backlog)
    real = Address(*sockets[0].getsockname()[:2])
    front = http_front_end(host, ignore_timeout=config.ignore_timeout)
    metrics = Metrics(host.description, host.stepper, config.model_histograms, host.tracer) if config.metrics else None
    quota = BodyQuota(config.max_held)
    shared = {
        "limits": config,
        "quota": quota,
        "allocate": staticmethod(host.allocate),
        "reception": host.reception,
        "models": {},
        "shed_replies": ShedReplies(),
    }
    protocol = type("Protocol", (LimitedProtocol,), shared)

    def receiver(*args: Any, **kwargs: Any) -> Receiver:
        return Receiver(protocol(*args, **kwargs))

    lines = LogLines()
    feed = Feed(host.description, timeline_reader(front.client), host.stepper, lines, max_viewers=config.max_viewers)
    dashboard = Dashboard(feed, config.viewer_timeout) if config.dashboard else None
    server = _Server(_settings(Application(front, metrics, dashboard, config, quota), receiver, config))
    server.tls = None if host.tls is None else host.tls.context
    server.handshake_timeout = None if host.tls is None else config.handshake_timeout
    running = asyncio.ensure_future(server.serve(sockets))
    log.info("listening for HTTP on %s", real, extra=event_fields("listening", protocol="http", address=str(real)))
    try:
        with lines if config.dashboard else nullcontext():
            yield real
    finally:
        server.should_exit = True
        front.close()  # requests that still wait get an error
        feed.close()
        await running


def _settings(application: Application, make: Callable[..., Receiver], config: HttpConfig) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=make,  # type: ignore[arg-type]
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",  # `Application` logs failures of the server; faults of clients are not logged
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=config.backlog,
        timeout_keep_alive=config.keep_alive,
        timeout_graceful_shutdown=config.grace,
    )


class _Server(uvicorn.Server):
    tls: ssl.SSLContext | None = None
    handshake_timeout: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, but with an existing TLS context and a time limit for handshakes."""

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return protocol

        self.servers = [
            server
            for sock in sockets or ()
            for server in await accept_connections(
                sock,
                make,
                ssl=self.tls,
                ssl_handshake_timeout=self.handshake_timeout,
                backlog=self.config.backlog,
            )
        ]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers, because the command line handles signals."""
        yield


async def _listen(address: Address, backlog: int) -> list[socket.socket]:
    """Return sockets that listen on the address.

    Raises:
        ServerError: the address is in use or not allowed.
    """
    try:
        sockets = await bind_sockets(address)
        for listening in sockets:
            listening.listen(backlog)
    except (OSError, UnicodeError) as error:  # a host name that cannot be encoded raises UnicodeError
        reason = getattr(error, "strerror", None) or error
        raise ServerError(f"cannot listen for HTTP on {address}: {reason}; choose another with --http") from error
    return sockets
