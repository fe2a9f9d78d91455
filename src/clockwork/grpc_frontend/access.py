"""Who may call which method, asked before the message is read."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from clockwork.access import Access, Right
from clockwork.errors import NotPermittedError
from clockwork.grpc_frontend.health import HEALTH_SERVICE
from clockwork.grpc_frontend.service import SERVICE, CallFailedError
from clockwork.oip.contract import denial

NEEDED: Final = {
    f"/{SERVICE}/ServerLive": Right.NONE,
    f"/{SERVICE}/ServerReady": Right.NONE,
    f"/{HEALTH_SERVICE}/Check": Right.NONE,
    f"/{HEALTH_SERVICE}/Watch": Right.NONE,
    f"/{SERVICE}/RepositoryModelLoad": Right.ADMIN,
    f"/{SERVICE}/RepositoryModelUnload": Right.ADMIN,
}
"""The right that a method needs; INFER for all others, those that there are not included."""


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets calls through that have a token for their method."""

    def __init__(self, access: Access) -> None:
        """See `Access`."""
        self._access = access

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """See ``grpc.aio.ServerInterceptor``."""
        sent = next((value for key, value in details.invocation_metadata if key == "authorization"), "")
        try:
            self._access.check(str(sent), NEEDED.get(details.method, Right.INFER))
        except NotPermittedError as error:
            return _denied(CallFailedError(denial(error)))
        return await continuation(details)


def _denied(failed: CallFailedError) -> grpc.RpcMethodHandler:
    """A method that fails, whatever it is sent; on the wire a call with one message is a stream of one."""

    async def fail(messages: Any, call: Any) -> None:
        await call.abort(failed.code, str(failed), failed.metadata())

    return grpc.stream_stream_rpc_method_handler(fail)
