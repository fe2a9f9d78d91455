"""Checks the token of a gRPC call before the call's message is read."""

from typing import Final

from clockwork.access import Access, Right
from clockwork.grpc_frontend.heads import Head
from clockwork.grpc_frontend.health import HEALTH_SERVICE
from clockwork.grpc_frontend.service import SERVICE

NEEDED_RIGHTS: Final = {
    f"/{SERVICE}/ServerLive": Right.NONE,
    f"/{SERVICE}/ServerReady": Right.NONE,
    f"/{HEALTH_SERVICE}/Check": Right.NONE,
    f"/{HEALTH_SERVICE}/Watch": Right.NONE,
    f"/{SERVICE}/RepositoryModelLoad": Right.ADMIN,
    f"/{SERVICE}/RepositoryModelUnload": Right.ADMIN,
}
"""The right that a client needs for each method. Methods that are not in this table, even unknown ones, need INFER."""


def check_access(access: Access, head: Head) -> None:
    """Check that the client's token allows the method.

    Raises:
        NotPermittedError: the client has no token that allows the method.
    """
    access.check(authorization(head), NEEDED_RIGHTS.get(head.path, Right.INFER))


def authorization(head: Head) -> str:
    """Return the metadata that contains the client's token, or an empty string."""
    return next((str(value) for key, value in head.metadata if key == "authorization"), "")
