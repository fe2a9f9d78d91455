"""The command ``clockwork trace``."""

from pathlib import Path
from typing import Annotated, Final

import typer

from clockwork.cli.options import ServerAddress, examples
from clockwork.cli.parsers import duration
from clockwork.cli.security import ClientTlsCa, ClientTlsCert, ClientTlsKey, ClientTokenFile, Credentials
from clockwork.net.address import DEFAULT_LISTEN
from clockwork.units import SECOND, Nanos

DEFAULT_SECONDS: Final[Nanos] = 5 * SECOND
MAX_SECONDS: Final[Nanos] = 60 * SECOND
"""Longest trace."""

DEFAULT_EVENTS: Final = 200_000
MAX_EVENTS: Final = 2_000_000
"""Largest number of events in a trace. An event takes about 250 bytes in the file."""

TRACE_EXAMPLES: Final = examples(
    "clockwork trace --seconds 5 -o trace.json      # record the next 5 s of a server",
    "clockwork trace --past --seconds 2             # write the last 2 s",
    "clockwork sim experiments/osdi20/fig5.toml --records fig5.jsonl",
    "clockwork trace --records fig5.jsonl --seconds 1     # open trace.json at https://ui.perfetto.dev",
)


def trace(
    seconds: Annotated[
        Nanos,
        typer.Option(parser=duration, metavar="DURATION", show_default="5s", help="Length of the trace, at most 60s."),
    ] = DEFAULT_SECONDS,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File for the trace.")] = Path(
        "trace.json"
    ),
    past: Annotated[
        bool, typer.Option("--past", help="Write the last seconds, as far as the server recorded them.")
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Read records of clockwork sim in place of a server."
        ),
    ] = None,
    start: Annotated[
        Nanos,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            show_default="0s",
            help="With --records: begin of the trace after the first request.",
        ),
    ] = 0,
    run: Annotated[int, typer.Option(min=1, help="With --records: number of the run in the file.")] = 1,
    max_events: Annotated[
        int, typer.Option(min=1, max=MAX_EVENTS, help="Largest number of events. Further actions are left out.")
    ] = DEFAULT_EVENTS,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Write what the devices do to a file in Chrome's trace event format, which Perfetto (ui.perfetto.dev) opens.

    The trace shows the lanes of each device, the planned and the actual times of each batch and each load, and the
    number of outstanding requests and actions. Ctrl-C ends the recording early. The trace is then shorter.
    """
    from clockwork.cli.simulation import check_writable
    from clockwork.cli.tracing import from_records, from_server, write_trace
    from clockwork.errors import InvalidRequestError

    if seconds > MAX_SECONDS:
        raise InvalidRequestError(f"--seconds is {seconds / SECOND:g} s; the limit is {MAX_SECONDS // SECOND} s")
    if records is not None and past:
        raise InvalidRequestError("--past needs a server; leave it out or leave out --records")
    if records is None and (start or run != 1):
        raise InvalidRequestError("--start and --run need --records")
    check_writable(output)
    if records is not None:
        write_trace(output, from_records(records, run, start, seconds, max_events))
        return
    credentials = Credentials(tls_ca, tls_cert, tls_key, token_file)
    write_trace(output, from_server(str(address), credentials, seconds, max_events, past=past))
