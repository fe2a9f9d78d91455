"""Dialling: connections to a controller, once or for ever."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.errors import ConnectionLostError
from clockwork.messages.link import Hello
from clockwork.net.address import Address
from clockwork.net.connection import DEFAULT_LINK, Connection, LinkConfig
from clockwork.wire.codec import Decode

BACKOFF_FIRST: Final = 0.05
"""Seconds to wait before dialling again."""

BACKOFF_LAST: Final = 2.0
"""Seconds; the wait doubles up to this, so that a controller that restarts has its fleet back within seconds."""


async def dial(
    address: Address,
    hello: Hello,
    *,
    decode: Decode[Any],
    on_message: Callable[[Connection, Any, Any], None],
    on_closed: Callable[[Connection, str], None],
    timeout: float = 5.0,
    config: LinkConfig = DEFAULT_LINK,
    clock: Clock | None = None,
    tls: ssl.SSLContext | None = None,
) -> Connection:
    """Connect and greet; ``timeout`` in seconds is for both.

    Raises:
        ConnectionLostError: nobody is there, or the greeting was refused.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(
                lambda: Connection(
                    decode=decode,
                    on_message=on_message,
                    on_closed=on_closed,
                    hello=hello,
                    config=config,
                    clock=clock,
                ),
                address.host,
                address.port,
                ssl=tls,
            )
            try:
                await connection.ready
            except asyncio.CancelledError:
                connection.close("the greeting took too long")
                raise
    except TimeoutError:
        raise ConnectionLostError(f"cannot connect to {address}: no answer within {timeout} s") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConnectionLostError(f"cannot connect to {address}: {reason}: is the controller running?") from error
    except ConnectionLostError as error:
        raise ConnectionLostError(f"cannot connect to {address}: {error}") from None
    return connection


async def keep_dialled(
    connect: Callable[[], Awaitable[Connection]],
    *,
    on_connected: Callable[[Connection], None],
    on_failure: Callable[[str], None],
    rng: random.Random,
) -> None:
    """Dial, and dial again whenever the connection ends or cannot be made, until cancelled.

    The wait between tries doubles, with jitter so that a fleet does not dial in step. ``on_failure`` hears why a try
    failed; the connection's own ``on_closed`` hears why it ended.
    """
    wait = BACKOFF_FIRST
    while True:
        try:
            connection = await connect()
        except ConnectionLostError as error:
            on_failure(str(error))
        else:
            try:
                on_connected(connection)
                await asyncio.shield(connection.closed)
            except asyncio.CancelledError:
                connection.close("shutting down")
                await connection.closed
                raise
            wait = BACKOFF_FIRST
        await asyncio.sleep(wait * rng.uniform(0.5, 1.0))
        wait = min(2 * wait, BACKOFF_LAST)
