"""Checks a call's token before the call's message is read."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from clockwork.access import Access, Right
from clockwork.errors import NotPermittedError
from clockwork.frontend.token_brake import TokenBrake
from clockwork.grpc_frontend.failures import abort
from clockwork.grpc_frontend.health import HEALTH_SERVICE
from clockwork.grpc_frontend.service import SERVICE
from clockwork.messages.status import Status
from clockwork.oip.failures import Failure

NEEDED_RIGHTS: Final = {
    f"/{SERVICE}/ServerLive": Right.NONE,
    f"/{SERVICE}/ServerReady": Right.NONE,
    f"/{HEALTH_SERVICE}/Check": Right.NONE,
    f"/{HEALTH_SERVICE}/Watch": Right.NONE,
    f"/{SERVICE}/RepositoryModelLoad": Right.ADMIN,
    f"/{SERVICE}/RepositoryModelUnload": Right.ADMIN,
}
"""The right that a method needs. Methods that are not listed need INFER, even if they do not exist."""


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without a token for their method."""

    def __init__(self, access: Access, brake: TokenBrake) -> None:
        """``access`` has the tokens and their rights; ``brake`` delays the responses to calls with an unknown token."""
        self._access = access
        self._brake = brake

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Return the method's handler, or one that refuses the call."""
        token = next((value for key, value in details.invocation_metadata if key == "authorization"), "")
        try:
            self._access.check(str(token), NEEDED_RIGHTS.get(details.method, Right.INFER))
        except NotPermittedError as error:
            if token and error.status == Status.NOT_AUTHENTICATED:
                await self._brake.delay()
            return _denied(Failure.from_denial(error))
        return await continuation(details)


def _denied(failure: Failure) -> grpc.RpcMethodHandler:
    """Return a handler that fails every call.

    It is a stream-stream handler, which fits unary calls too: on the wire, their one message is a stream of one.
    """

    async def fail(messages: Any, call: Any) -> None:
        await abort(call, failure)

    return grpc.stream_stream_rpc_method_handler(fail)
