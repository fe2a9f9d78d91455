"""Runs the HTTP server on the controller's event loop."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

from clockwork.dashboard.feed import Feed
from clockwork.dashboard.log_lines import LogLines
from clockwork.frontend.body_quota import BodyQuota
from clockwork.host.controller import ControllerHost
from clockwork.host.log_events import event_fields
from clockwork.http.application import Application, http_front_end
from clockwork.http.config import DEFAULT, HttpConfig
from clockwork.http.connection import HttpConnection, Port
from clockwork.http.dashboard import Dashboard, timeline_reader
from clockwork.metrics import Metrics
from clockwork.net.accepting import accept_connections, listening_sockets
from clockwork.net.address import Address

log = logging.getLogger("clockwork.http")


@asynccontextmanager
async def serving_http(host: ControllerHost, address: Address, config: HttpConfig = DEFAULT) -> AsyncIterator[Address]:
    """Serve HTTP until the context ends. The context's value is the address with the port that the server has chosen.

    Raises:
        ServerError: the address is in use or not allowed.
    """
    sockets = await listening_sockets(address, config.backlog, "HTTP")
    real = Address(*sockets[0].getsockname()[:2])
    front = http_front_end(host, ignore_timeout=config.ignore_timeout)
    metrics = Metrics(host.description, host.stepper, config.model_histograms, host.tracer) if config.metrics else None
    quota = BodyQuota(config.max_held)
    lines = LogLines()
    feed = Feed(host.description, timeline_reader(front.client), host.stepper, lines, max_viewers=config.max_viewers)
    dashboard = Dashboard(feed, config.viewer_timeout) if config.dashboard else None
    application = Application(front, metrics, dashboard, config, quota)
    port = Port(application.serve, host.reception, config, quota, host.allocate)
    tls, timeout = (None, None) if host.tls is None else (host.tls.context, config.handshake_timeout)
    make = partial(HttpConnection, port)
    servers = [
        server
        for listening in sockets
        for server in await accept_connections(
            listening, make, ssl=tls, ssl_handshake_timeout=timeout, backlog=config.backlog
        )
    ]
    log.info("listening for HTTP on %s", real, extra=event_fields("listening", protocol="http", address=str(real)))
    try:
        with lines if config.dashboard else nullcontext():
            yield real
    finally:
        for server in servers:
            server.close()
        front.close()  # requests that still wait get an error
        feed.close()
        await port.close(config.grace)
