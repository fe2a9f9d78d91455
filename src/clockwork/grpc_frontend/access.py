"""Checks the token of a gRPC call before the call's message is read."""

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
"""The right that a client needs for each method. Methods that are not in this table, even unknown ones, need INFER."""


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses a call if the client has no token that allows the method."""

    def __init__(self, access: Access, brake: TokenBrake) -> None:
        """Create an interceptor.

        ``access`` contains the tokens and their rights. ``brake`` delays the responses to calls with an unknown token.
        """
        self._access = access
        self._brake = brake

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Return the method's handler, or a handler that refuses the call."""
        token = next((value for key, value in details.invocation_metadata if key == "authorization"), "")
        try:
            self._access.check(str(token), NEEDED_RIGHTS.get(details.method, Right.INFER))
        except NotPermittedError as error:
            if token and error.status == Status.NOT_AUTHENTICATED:
                await self._brake.delay()
            return _denied(Failure.from_denial(error))
        return await continuation(details)


def _denied(failure: Failure) -> grpc.RpcMethodHandler:
    """Return a handler that fails every call with the given failure.

    The handler handles calls as streams. A handler of streams also works for unary calls, which are streams of one
    message.
    """

    async def fail(messages: Any, call: Any) -> None:
        await abort(call, failure)

    return grpc.stream_stream_rpc_method_handler(fail)
