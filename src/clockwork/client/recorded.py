"""The calls of a client that ask about recent requests and about the actions of devices."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from clockwork.client.status_errors import error_for_status
from clockwork.messages.explanation import DEFAULT_LISTED, Explanation, RequestSummary
from clockwork.messages.requests import (
    ExplainRequest,
    ExplainResponse,
    ListRequestsRequest,
    ListRequestsResponse,
    Request,
)
from clockwork.messages.status import Status
from clockwork.messages.timeline import (
    DEFAULT_HORIZON,
    DEFAULT_LIMIT,
    DEFAULT_PAST,
    Timeline,
    TimelineRequest,
    TimelineResponse,
)
from clockwork.units import as_seconds, seconds

ResponseT = TypeVar("ResponseT")


class RecordedRequests(ABC):
    """A client that can read the requests and the actions that the server has recorded."""

    @abstractmethod
    def _id(self) -> int:
        """Return the id for the next request."""

    @abstractmethod
    async def _call(
        self, request: Request, expected: type[ResponseT], buffers: Sequence[Any] = ()
    ) -> tuple[ResponseT, Any]:
        """Send a request, and return the response and its payload."""

    async def recent_requests(
        self, outcome: str = "", model: str = "", limit: int = DEFAULT_LISTED
    ) -> list[RequestSummary]:
        """Return the last answered requests of all clients, with the newest first.

        Args:
            outcome: in_time, late, refused, failed, cancelled or broken; empty for all requests.
            model: name of a model; empty for all models.
            limit: largest number of requests to return.

        Raises:
            InvalidRequestError: an argument is wrong, or the server records no requests.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        request = ListRequestsRequest(self._id(), outcome, model, limit)
        response, _ = await self._call(request, ListRequestsResponse)
        if response.status != Status.SUCCESS:
            raise error_for_status(response.status, response.message)
        return list(response.requests)

    async def explain(self, request_id: str) -> Explanation:
        """Return the explanation of an answered request: what was predicted for it, and what happened.

        ``request_id`` is the ``request_id`` of a result or an exception.

        Raises:
            InvalidRequestError: the request is not recorded, or not answered yet.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        response, _ = await self._call(ExplainRequest(self._id(), request_id), ExplainResponse)
        if response.explanation is None:
            raise error_for_status(response.status, response.message)
        return response.explanation

    async def timeline(
        self,
        after: int = 0,
        *,
        past: float = as_seconds(DEFAULT_PAST),
        horizon: float = as_seconds(DEFAULT_HORIZON),
        limit: int = DEFAULT_LIMIT,
    ) -> Timeline:
        """Return what the devices executed recently, and what they are expected to execute next.

        Args:
            after: the attribute ``last`` of the previous timeline; 0 for the first timeline.
            past: return only actions that ended in the last ``past`` seconds.
            horizon: return only planned batches that begin in the next ``horizon`` seconds. If ``horizon`` is 0, only
                ended actions are returned.
            limit: largest number of ended actions.

        Raises:
            InvalidRequestError: an argument is wrong, or the server records no actions.
            ServerError, ConnectionLostError: the server failed, or the connection ended.
        """
        request = TimelineRequest(self._id(), after, seconds(past), seconds(horizon), limit)
        response, _ = await self._call(request, TimelineResponse)
        if response.timeline is None:
            raise error_for_status(response.status, response.message)
        return response.timeline
