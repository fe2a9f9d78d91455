"""Connects this process to a Ray cluster."""

import socket
from contextlib import suppress
from typing import Any, Final

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.ray.spec import NAMESPACE

HOW_TO_INSTALL = "pip install 'ray>=2.49'"

MAX_PORT: Final = 65_535

CONNECT_TIME: Final = 5.0
"""Time in seconds in which a cluster must accept a connection. Ray itself tries for minutes."""


def connected(address: str) -> Any:
    """Return the module ``ray``, connected to the cluster at this address. ``auto`` finds the cluster of this machine.

    If this process is already connected to a cluster, that cluster is used.

    Raises:
        InvalidRequestError: Ray is not installed.
        ServerError: no cluster can be reached, or its versions differ.
    """
    try:
        import ray
    except ImportError:
        raise InvalidRequestError(f"Ray is not installed; run: {HOW_TO_INSTALL}") from None
    if ray.is_initialized():
        return ray
    try:
        _check_reachable(address)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        text = " ".join(str(error).split())
        raise ServerError(f"cannot connect to the Ray cluster at {address!r}: {text}") from error
    return ray


def _check_reachable(address: str) -> None:
    """Check that a program listens at the address of a cluster. Leave addresses that cannot be parsed to Ray.

    Raises:
        ServerError: no program listens there.
    """
    found = address
    if address == "auto":
        with suppress(ImportError, AttributeError, TypeError):  # the function is not part of Ray's public interface
            from ray._private.services import canonicalize_bootstrap_address

            found = canonicalize_bootstrap_address(address) or ""
    host, _, port = found.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIME).close()
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        raise ServerError(f"cannot connect to the Ray cluster at {found!r}: {reason}; is Ray running there?") from error
