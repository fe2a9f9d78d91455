"""Options that many commands share: the server's address, the format of the output, and the log.

The modules `controller_options`, `limit_options` and `worker_options` contain further shared options. The options for
TLS and tokens are in `security`. Each option is declared only once.
"""

from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli import logs
from clockwork.cli.configuration import is_dry_run
from clockwork.cli.parsers import client_address, one_of
from clockwork.net.address import DEFAULT_LISTEN, Address

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = (logs.HUMAN, logs.JSON)


def examples(*lines: str) -> str:
    """Return the last part of a command's help text. Each of its lines is an example of the command's use."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def use_log_format(ctx: typer.Context, value: str) -> str:
    """Set the format in which errors are reported. Typer calls this function for the option ``--log-format``.

    This function does nothing if ``clockwork config`` checks the options.
    """
    if not is_dry_run(ctx):
        logs.set_format(value)
    return value


ServerAddress: TypeAlias = Annotated[
    Address,
    typer.Option(
        "--address",
        "-a",
        parser=client_address,
        metavar="HOST:PORT",
        envvar="CLOCKWORK_ADDRESS",
        show_default=str(DEFAULT_LISTEN),
        help="Address where the controller listens for clients.",
    ),
]
NoWait: TypeAlias = Annotated[
    bool, typer.Option("--no-wait", help="Return at once; clockwork status shows the progress.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

LogLevel: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log-level",
        parser=one_of("log level", LOG_LEVELS),
        metavar="LEVEL",
        help="Lowest level that is logged: debug, info, warning or error.",
    ),
]
LogFormat: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log-format",
        parser=one_of("log format", LOG_FORMATS),
        is_eager=True,
        callback=use_log_format,
        metavar="FORMAT",
        help="Format of the log: human, or json (each line of stderr is a JSON document).",
    ),
]
