"""Connects this process to a Ray cluster."""

from typing import Any

from clockwork.errors import InvalidRequestError, ServerError
from clockwork.ray.spec import NAMESPACE

HOW_TO_INSTALL = "pip install 'ray>=2.49'"


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
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        text = " ".join(str(error).split())
        raise ServerError(f"cannot connect to the Ray cluster at {address!r}: {text}") from error
    return ray
