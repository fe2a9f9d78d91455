"""Dialling: connections to a controller, once or for ever."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.errors import ConnectionLostError
from clockwork.messages.link import Hello
from clockwork.net.address import Address
from clockwork.net.config import DEFAULT_LINK, LinkConfig
from clockwork.net.connection import Callbacks, Connection
from clockwork.wire.codec import Decode

MIN_BACKOFF: Final = 0.05
"""Seconds to wait before dialling again."""

MAX_BACKOFF: Final = 2.0
"""Seconds; the wait doubles up to this, so that a controller that restarts has its fleet back within seconds."""


async def dial(
    address: Address,
    hello: Hello,
    *,
    decode: Decode[Any],
    on_message: Callable[[Connection, Any, Any], None],
    on_closed: Callable[[Connection, str], None],
    on_writable: Callable[[Connection, bool], None] = lambda connection, writable: None,
    timeout: float = 5.0,
    config: LinkConfig = DEFAULT_LINK,
    clock: Clock | None = None,
    tls: ssl.SSLContext | None = None,
) -> Connection:
    """Connect and greet; ``timeout`` in seconds is for both.

    ``on_message`` is not called before whoever awaits this has had the connection in hand, and ``on_closed`` is called
    once if a connection was returned, never if not.

    Raises:
        ConnectionLostError: nobody is there, or the greeting was refused.
    """
    loop = asyncio.get_running_loop()
    callbacks = Callbacks(on_message, on_closed, on_writable=on_writable)
    factory = partial(Connection, decode, callbacks, hello=hello, config=config, clock=clock)
    try:
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(factory, address.host, address.port, ssl=tls)
            try:
                await connection.ready
            except asyncio.CancelledError:
                connection.abort("the greeting took too long")
                raise
            except ConnectionLostError as error:
                if tls is None and not connection.received_at:
                    raise ConnectionLostError(f"{error} without a word: it may expect TLS (--tls-ca)") from None
                raise
        if connection.closing:
            raise ConnectionLostError(await connection.closed)
    except TimeoutError:
        raise ConnectionLostError(f"cannot connect to {address}: no answer within {timeout:g} s") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: what cannot be a host's name
        raise ConnectionLostError(f"cannot connect to {address}: {_why(error)}") from error
    except ConnectionLostError as error:
        raise ConnectionLostError(f"cannot connect to {address}: {error}") from None
    connection.hand_over()
    return connection


async def keep_dialled(
    connect: Callable[[], Awaitable[Connection]],
    *,
    on_connected: Callable[[Connection], None],
    on_failure: Callable[[str], None],
    rng: random.Random,
) -> None:
    """Dial, and dial again whenever the connection ends or cannot be made, until cancelled.

    The wait between tries doubles, with jitter so that a fleet does not dial in step, and begins anew after a
    connection that outlived the longest wait: one that is accepted only to be thrown out is not dialled in a frenzy.
    ``on_failure`` hears why a try failed; the connection's own ``on_closed`` hears why it ended.
    """
    loop = asyncio.get_running_loop()
    wait = MIN_BACKOFF
    while True:
        try:
            connection = await connect()
        except ConnectionLostError as error:
            on_failure(str(error))
        else:
            connected_at = loop.time()
            try:
                on_connected(connection)
                await asyncio.shield(connection.closed)
            except asyncio.CancelledError:
                connection.close("shutting down")
                await connection.closed
                raise
            if loop.time() - connected_at > MAX_BACKOFF:
                wait = MIN_BACKOFF
        await asyncio.sleep(wait * rng.uniform(0.5, 1.0))
        wait = min(2 * wait, MAX_BACKOFF)


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, ConnectionRefusedError):  # asyncio's own words repeat the address
        return "connection refused: is the controller running?"
    return getattr(error, "strerror", None) or str(error)
