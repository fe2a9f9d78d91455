"""Options that limit the size of clients' requests. ``serve`` and ``controller`` share them."""

from typing import Annotated, TypeAlias

import typer

from clockwork.cli.parsers import size
from clockwork.units import Bytes

MaxJson: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-json",
        parser=size,
        metavar="SIZE",
        show_default="16MiB",
        help="Largest JSON of one HTTP request or response. Larger tensors need the binary data extension.",
    ),
]
MaxBody: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-body",
        parser=size,
        metavar="SIZE",
        show_default="256MiB",
        help="Largest body of one HTTP request. The inputs in it may take at most 64 MiB.",
    ),
]
