"""Serves the dashboard over HTTP: the files of its page, and its stream of server-sent events."""

from typing import Final

from clockwork.dashboard.assets import PAGE, POLICY, assets
from clockwork.dashboard.feed import Feed, Viewer, ViewersFullError
from clockwork.dashboard.timeline import ReadTimeline
from clockwork.host.local_client import LocalClient
from clockwork.http.exchange import Exchange
from clockwork.http.heads import Headers
from clockwork.http.presence import unless_gone
from clockwork.http.replies import Reply
from clockwork.http.responding import NOT_MODIFIED
from clockwork.http.streaming import Stream
from clockwork.messages.status import Status
from clockwork.messages.timeline import Timeline, TimelineRequest, TimelineResponse
from clockwork.oip.failures import Failure, RequestFailedError
from clockwork.units import SECOND

_SAFE: Final = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]

_EVENTS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events
]


def timeline_reader(client: LocalClient) -> ReadTimeline:
    """Return a function that reads the timeline with the requests of a client."""

    async def read(after: int, limit: int) -> Timeline | None:
        response, _ = await client.ask(TimelineRequest(client.next_id(), after, limit=limit))
        return response.timeline if isinstance(response, TimelineResponse) else None

    return read


class Dashboard:
    """The dashboard of one server."""

    def __init__(self, feed: Feed, patience: float) -> None:
        """``patience`` is the time in seconds that a viewer may take to read one message of the feed."""
        self._feed, self._patience = feed, patience

    def file(self, name: str, headers: Headers) -> Reply | None:
        """Return a file of the page, or None if there is no such file. The empty name means the page itself."""
        asset = assets().get(name or PAGE)
        if asset is None:
            return None
        described = [*_SAFE, (b"etag", asset.tag.encode()), (b"cache-control", b"no-cache")]
        if asset.is_known(str(headers.get(b"if-none-match", b""), "latin-1")):
            return Reply(NOT_MODIFIED, described, [])
        return Reply(200, [*described, (b"content-type", asset.content_type.encode())], [asset.content])

    async def events(self, exchange: Exchange) -> None:
        """Send snapshots until the client disconnects or the server ends.

        Raises:
            RequestFailedError: there are too many viewers.
        """
        try:
            with self._feed.viewing() as viewer:
                stream = Stream(exchange, Reply(200, _EVENTS, []), self._patience)
                if exchange.method != "HEAD":
                    await unless_gone(_send_all(viewer, stream), exchange.presence)
                stream.end()
        except ViewersFullError as error:
            status = Status.SKIPPED_BY_CONTROLLER
            raise RequestFailedError(Failure.from_status(status, str(error), retry_after=10 * SECOND)) from None


async def _send_all(viewer: Viewer, stream: Stream) -> None:
    while (message := await viewer.next()) is not None:
        if not stream.send(message):
            viewer.miss()
