"""Ends gRPC calls with the status code, the message and the trailing metadata of a `Failure`."""

from typing import Any, NoReturn

import grpc

from clockwork.frontend.id_header import header_value
from clockwork.messages.request_ids import ID_HEADER
from clockwork.messages.status import status_name
from clockwork.oip.failures import Failure
from clockwork.units import MILLISECOND


def trailing(failure: Failure) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata of a failed call: its status, predicted completion, retry time and id."""
    metadata = [("clockwork-status", str(failure.status)), ("clockwork-status-name", status_name(failure.status))]
    if failure.predicted is not None:
        metadata.append(("clockwork-predicted-ms", f"{failure.predicted / MILLISECOND:.3f}"))
    if failure.retry_after is not None:
        metadata.append(("clockwork-retry-after-ms", f"{failure.retry_after / MILLISECOND:.3f}"))
    if failure.request_id:
        metadata.append((ID_HEADER, header_value(failure.request_id)))
    return tuple(metadata)


async def abort(call: Any, failure: Failure) -> NoReturn:
    """End the call with a failure. This function never returns, because gRPC raises an exception."""
    await call.abort(grpc.StatusCode[failure.grpc], failure.message, trailing(failure))
    raise AssertionError("abort returned")
