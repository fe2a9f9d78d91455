"""The command ``clockwork top``."""

from typing import Annotated, Final

import typer

from clockwork.cli.options import AsJson, ServerAddress, examples
from clockwork.cli.parsers import duration, one_of
from clockwork.cli.security import ClientTlsCa, ClientTlsCert, ClientTlsKey, ClientTokenFile, Credentials
from clockwork.net.address import DEFAULT_LISTEN
from clockwork.units import MILLISECOND, SECOND, Nanos

SORT_NAMES: Final = ("rate", "missed", "refused", "late", "p99", "name")
WINDOW_NAMES: Final = ("10s", "5min")

MIN_INTERVAL: Final[Nanos] = 100 * MILLISECOND
"""Shortest time between two readings, so that a terminal does not burden the server."""

TOP_EXAMPLES: Final = examples(
    "clockwork top                          # q ends it; r m x l p n sort; w changes the window",
    "clockwork top --sort missed --window 5min",
    "clockwork top --once                   # one screen, also into a pipe",
    "clockwork top --json | jq '.models[] | {model, rate: .last_10_s.per_second}'",
)


def top(
    interval: Annotated[
        Nanos,
        typer.Option(
            parser=duration, metavar="DURATION", show_default="1s", help="Time between two readings, at least 100ms."
        ),
    ] = SECOND,
    sort: Annotated[
        str,
        typer.Option(
            parser=one_of("order", SORT_NAMES), metavar="ORDER", help=f"Order of the models: {', '.join(SORT_NAMES)}."
        ),
    ] = "rate",
    window: Annotated[
        str,
        typer.Option(
            parser=one_of("window", WINDOW_NAMES), metavar="WINDOW", help="Window of the table of models: 10s or 5min."
        ),
    ] = "10s",
    once: Annotated[bool, typer.Option("--once", help="Print one screen with a line for every model.")] = False,
    json: AsJson = False,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Show recent rates, latencies and refusals of models, and the work of devices, and refresh them.

    The keys r, m, x, l, p and n sort the models by rate, missed, refused, late, p99 and name. The key w changes the
    window, and q ends the command. If the server restarts, the command connects again.

    If stdout is not a terminal, the command prints one screen and exits, as with --once. A reading with --once or
    --json takes as long as --interval, at most 1 s, because the rates of devices need two readings.
    """
    import asyncio

    from clockwork.cli.output import show, show_json
    from clockwork.cli.top_report import screen, top_of
    from clockwork.cli.top_screen import TopScreen, is_terminal, read_twice
    from clockwork.errors import InvalidRequestError

    if interval < MIN_INTERVAL:
        text = f"--interval is {interval / MILLISECOND:g} ms; it must be at least {MIN_INTERVAL // MILLISECOND} ms"
        raise InvalidRequestError(text)
    credentials = Credentials(tls_ca, tls_cert, tls_key, token_file)
    if not (once or json or is_terminal()):
        typer.echo("stdout is not a terminal; printing one screen (--once)", err=True)
        once = True
    if once or json:
        before, reading = asyncio.run(read_twice(str(address), credentials, min(interval, SECOND)))
        found = top_of(reading, before, folded=not json)
        if json:
            show_json(found)
        else:
            show(*screen(reading, found, sort=sort, window=window))
        return
    asyncio.run(TopScreen(str(address), credentials, interval, sort, window).run())
