"""Connects to a controller: either once, or again whenever the connection ends."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from clockwork.clock import Clock
from clockwork.errors import ConnectionLostError, OtherVersionError
from clockwork.messages.link import Hello
from clockwork.net.address import Address
from clockwork.net.config import DEFAULT_LINK, LinkConfig
from clockwork.net.connection import Callbacks, Connection
from clockwork.wire.codec import Decode

MIN_BACKOFF: Final = 0.05
"""Shortest wait in seconds between two attempts to connect."""

MAX_BACKOFF: Final = 2.0
"""Longest wait in seconds between two attempts to connect. The wait doubles up to this limit.

The wait is short, so that workers connect to a restarted controller within seconds.
"""

OTHER_VERSION_WAIT: Final = 10.0
"""Wait in seconds after the peer refused the connection because of its version.

The peer must be replaced before an attempt can succeed.
"""


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
    """Connect to a peer, and exchange greetings with it. ``timeout`` limits the time for both steps, in seconds.

    ``on_message`` is not called before this function has returned the connection. ``on_closed`` is called once if this
    function returned a connection. If this function raised an exception, ``on_closed`` is never called.

    Raises:
        OtherVersionError: the peer uses another version of the protocol.
        ConnectionLostError: the peer cannot be reached or refused the greeting.
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
                    raise ConnectionLostError(f"{error} without an answer; it may require TLS (--tls-ca)") from None
                raise
        if connection.closing:
            raise ConnectionLostError(await connection.closed)
    except TimeoutError:
        raise ConnectionLostError(f"cannot connect to {address}: no answer within {timeout:g} s") from None
    except (OSError, UnicodeError) as error:  # an invalid host name raises UnicodeError
        raise ConnectionLostError(f"cannot connect to {address}: {_why(error)}") from error
    except ConnectionLostError as error:
        raise type(error)(f"cannot connect to {address}: {error}") from None
    connection.hand_over()
    return connection


async def keep_dialled(
    connect: Callable[[], Awaitable[Connection]],
    *,
    on_connected: Callable[[Connection], None],
    on_failure: Callable[[str], None],
    rng: random.Random,
) -> None:
    """Connect, and connect again whenever an attempt fails or the connection ends.

    Run until this coroutine is cancelled. The wait doubles after each failed attempt. The wait is partly random, so
    that many workers do not connect at the same time. The wait becomes short again only after a connection that lasted
    longer than `MAX_BACKOFF`. So a worker whose connections are always closed soon does not connect too often. After a
    refusal because of the version, the wait is `OTHER_VERSION_WAIT`.
    ``on_failure`` receives the reason of a failed attempt. The connection's ``on_closed`` receives the reason why a
    connection ended.
    """
    loop = asyncio.get_running_loop()
    wait = MIN_BACKOFF
    while True:
        try:
            connection = await connect()
        except ConnectionLostError as error:
            on_failure(str(error))
            if isinstance(error, OtherVersionError):
                await asyncio.sleep(OTHER_VERSION_WAIT * rng.uniform(0.5, 1.0))
                wait = MIN_BACKOFF
                continue
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
    if isinstance(error, ConnectionRefusedError):  # asyncio's text would repeat the address
        return "connection refused: is the controller running?"
    return getattr(error, "strerror", None) or str(error)
